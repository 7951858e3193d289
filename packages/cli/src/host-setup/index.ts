export { acceleratorFact } from './accelerator.ts';
export { collectFacts } from './facts.ts';
export { setupReport } from './report.ts';
export { checkRequirements } from './requirement.ts';
export { REQUIREMENTS } from './requirements.ts';
export { assertHostReady, setUpHost } from './setup.ts';
