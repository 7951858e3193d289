export { collectFacts } from './facts.ts';
export { setupReport } from './report.ts';
export { checkRequirements } from './requirement.ts';
export { requirementsFor } from './requirements.ts';
export { assertHostReady, setUpHost } from './setup.ts';
export { vmmFacts } from './vmm.ts';
