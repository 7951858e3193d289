// What brings a machine to what sandboxes need, and says what it has. It loads without the agent.
export type { HostSettings } from '../config.ts';
export type { SetupReport } from './apt.ts';
export { collectFacts } from './facts.ts';
export { checkRequirements, type Fact, type Requirement, remedyOf } from './requirement.ts';
export { REQUIREMENTS, requirementsFor } from './requirements.ts';
export { assertHostReady, setUpHost } from './setup.ts';
export { vmmFacts } from './vmm.ts';
