import { type ErrorCode, TorporError } from '@torpor/protocol';
import { recordingLogger } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';
import { logFailure } from './log-failure.ts';

test.each<[ErrorCode, string]>([
  ['program_not_found', 'debug'],
  ['not_found', 'debug'],
  ['timeout', 'info'],
  ['guest_unreachable', 'info'],
  ['sandbox_exhausted', 'info'],
])('%s is a user’s own and logged as %s, without what the user sent', (code, level) => {
  const { logger, text } = recordingLogger();
  logFailure(logger, { sandbox: 'sb1' }, new TorporError(code, 'private text'), 'Stream failed');
  const { time, pid, hostname, ...entry } = JSON.parse(text());
  const levels = logger.levels.values;
  expect(entry).toEqual({ level: levels[level], sandbox: 'sb1', code, msg: 'Stream failed' });
});

test.each<ErrorCode>(['internal_error', 'host_unavailable', 'database_unavailable', 'vmm_failed'])(
  '%s is the operator’s and logged as an error with its stack',
  (code) => {
    const { logger, text } = recordingLogger();
    logFailure(logger, {}, new TorporError(code, 'it broke'), 'Request failed');
    const entry = JSON.parse(text());
    expect(entry).toMatchObject({ level: logger.levels.values.error, msg: 'Request failed' });
    expect(entry.err.stack).toContain('it broke');
  },
);
