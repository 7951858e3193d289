// What programs need without the client. It loads in a fraction of the time of the whole package.
export {
  type ErrorCode,
  formatBytes,
  isId,
  isSandboxState,
  REMEDIES,
  type RemedyName,
  SANDBOX_STATES,
  type SandboxState,
  SIGNAL_NAMES,
  type SignalName,
  signalNumber,
  signalOfStatus,
  TEMPLATE_TYPES,
  type TemplateType,
  TorporError,
  withFullStop,
} from '@torpor/protocol/basics';
