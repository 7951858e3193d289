export type { HostAgentConfig } from './config.ts';
export { instanceTag } from './data-dir/layout.ts';
export { recordTexts } from './data-dir/record-texts.ts';
export { HostAgent } from './host-agent.ts';
export type { BaseImage, BaseImages, ImageSummary, SandboxLimits } from './host-context.ts';
export { forwardingObstacles, sampleRules } from './network/index.ts';
export { StoredImages } from './stored-images.ts';
export { chooseVmm, type VmmChoice, type VmmSetting } from './vmm-choice.ts';
