import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  ParentBasedSampler,
  type Sampler,
  TraceIdRatioBasedSampler,
} from '@opentelemetry/sdk-trace';
import type { Logger } from 'pino';
import type { TracingSettings } from './options.ts';

const DEFAULT_SAMPLER = 'parentbased_always_on';

const parentBased = (root: Sampler) => new ParentBasedSampler({ root });

/** By the values of OTEL_TRACES_SAMPLER. */
const SAMPLERS: Readonly<Record<string, (ratio: number) => Sampler>> = {
  always_on: () => new AlwaysOnSampler(),
  always_off: () => new AlwaysOffSampler(),
  traceidratio: (ratio) => new TraceIdRatioBasedSampler(ratio),
  parentbased_always_on: () => parentBased(new AlwaysOnSampler()),
  parentbased_always_off: () => parentBased(new AlwaysOffSampler()),
  parentbased_traceidratio: (ratio) => parentBased(new TraceIdRatioBasedSampler(ratio)),
};

/** Which traces are recorded. As OpenTelemetry has it, an unknown sampler is logged and the default is used. */
export function createSampler(
  { sampler = DEFAULT_SAMPLER, samplerArgument }: TracingSettings,
  logger: Logger,
): Sampler {
  const create = Object.hasOwn(SAMPLERS, sampler) ? SAMPLERS[sampler] : undefined;
  const ratio = samplerArgument === undefined ? 1 : Number(samplerArgument);
  const isRatio = ratio >= 0 && ratio <= 1;
  if (create === undefined || !isRatio) {
    logger.warn(
      { sampler, argument: samplerArgument, used: DEFAULT_SAMPLER },
      'Unknown sampler of traces, or argument of it that is not from 0 to 1',
    );
  }
  return (isRatio ? create : undefined)?.(ratio) ?? parentBased(new AlwaysOnSampler());
}
