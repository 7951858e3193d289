export type { Progress } from '@torpor/images';
export type { AcceleratorChoice } from '@torpor/vmm';
export type { HostAgentConfig, HostSettings } from './config.ts';
export { HostAgent } from './host-agent.ts';
export type { SandboxLimits } from './host-context.ts';
export type { VmmPrograms, VmmSetting } from './vmm-choice.ts';
