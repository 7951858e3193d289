export type { HostAgentConfig, HostSettings } from './config.ts';
export { instanceTag } from './data-dir/layout.ts';
export { recordTexts } from './data-dir/record-texts.ts';
export { HostAgent } from './host-agent.ts';
export type { BaseImage, BaseImages, ImageSummary, SandboxLimits } from './host-context.ts';
export { StoredImages } from './stored-images.ts';
export type { VmmPrograms, VmmSetting } from './vmm-choice.ts';
