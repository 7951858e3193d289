import { isUtf8 } from 'node:buffer';
import type { rest } from '@torpor/protocol';
import type { ExecOutcome, ProcessEntry } from '../../guest/processes.ts';
import { completeUtf8Length } from '../../guest/text.ts';

/** The result of a foreground exec of `cmd`: text, or base64 of both streams if either is not UTF-8. */
export function presentExec(sandboxId: string, cmd: string, outcome: ExecOutcome): rest.ExecResult {
  const stdout = trimCut(outcome.stdout, outcome.stdoutDroppedBytes);
  const stderr = trimCut(outcome.stderr, outcome.stderrDroppedBytes);
  const encoding = isUtf8(stdout.bytes) && isUtf8(stderr.bytes) ? 'utf-8' : 'base64';
  return {
    sandbox_id: sandboxId,
    cmd,
    stdout: Buffer.from(stdout.bytes).toString(encoding),
    stderr: Buffer.from(stderr.bytes).toString(encoding),
    exit_code: outcome.exitCode,
    ...(outcome.status === undefined ? {} : { status: outcome.status }),
    duration_ms: Math.round(outcome.durationMs),
    encoding,
    truncated: stdout.dropped + stderr.dropped > 0,
    stdout_dropped_bytes: stdout.dropped,
    stderr_dropped_bytes: stderr.dropped,
  };
}

/** Truncated output may end inside a character; that part counts as dropped, or the rest would no longer be text. */
function trimCut(bytes: Uint8Array, dropped: number): { bytes: Uint8Array; dropped: number } {
  if (dropped === 0) return { bytes, dropped };
  const length = completeUtf8Length(bytes);
  return { bytes: bytes.subarray(0, length), dropped: dropped + bytes.length - length };
}

export function presentProcess({ pid, tag, cmd, args, end }: ProcessEntry) {
  const process: rest.ProcessList['processes'][number] = {
    pid,
    ...(tag === undefined ? {} : { tag }),
    cmd,
    args: [...args],
    ...(end === undefined ? {} : { exit_code: end.exitCode }),
    ...(end?.status === undefined ? {} : { status: end.status }),
  };
  return process;
}
