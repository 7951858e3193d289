/*
 * What VMMs and guests print is mostly routine: warnings of features that the host lacks, dumps
 * of registers, progress. Only lines that say what went wrong may be quoted in the reason for
 * an exit; the log has the rest.
 */

/**
 * Firecracker's log, with `--show-level`: `TIME [ID:THREAD:LEVEL] message`. Undefined: not from
 * Firecracker's log.
 */
const FIRECRACKER_LOG =
  /^\d{4}-\d\d-\d\dT[\d:.]+ \[[^\]]*?(?::(?<level>[A-Z]+))?(?::\S+\.rs:\d+)?\] /;

const ROUTINE: readonly RegExp[] = [
  // QEMU's report.c: `PROGRAM: warning: message`, with the option that it is about before the
  // level.
  /^[^\s:]+: (?:-.*?: )?(?:warning|info): /,
  // GLib, which QEMU uses: `(PROGRAM:PID): GLib-WARNING **: message`.
  /^(?:\*\* )?\([^)]*:\d+\): (?:\S+-)?(?:WARNING|Message|INFO|DEBUG) ?\*\*/,
  // What follows KVM's own errors in QEMU's output.
  /^(?:extra data\[\d+\]: |[A-Z][A-Z0-9]{1,2} ?= ?[0-9a-f]|Code=)/,
  // What follows the message of a panic in Rust.
  /^(?:note: |stack backtrace:|\s+(?:\d+: |at ))/,
  // The first and last lines of every Firecracker log.
  /^(?:Running Firecracker v|Firecracker exiting )/,
];

/** Patterns of a guest's line that is about a failure, as its kernel and most programs print it. */
const GUEST_FAILURE =
  /\b(?:panic|oops|bug:|oom|out of memory|segfault|error|fail(?:ed|ure|s)?|fatal|cannot|denied|no such|no space)\b/i;
/** Of these, lines that do not report a failure. */
const GUEST_ROUTINE = /\b(?:0|no) errors?\b|\berrors=|without error/i;

/** Those of a VMM's lines that say what went wrong, without the time and thread of a log. */
export function vmmErrors(lines: readonly string[]): string[] {
  return lines.flatMap((line) => {
    const entry = FIRECRACKER_LOG.exec(line);
    if (entry !== null && entry.groups?.level !== 'ERROR') return [];
    const message = line.slice(entry?.[0].length ?? 0);
    return ROUTINE.some((pattern) => pattern.test(message)) ? [] : [message];
  });
}

/** On the console of every guest: the VMM's first line, and the kernel's last. */
const CONSOLE_ROUTINE = /^(?:\S+ \[[^\]]*\] )?Running Firecracker v|^\[ *[\d.]+\] reboot: /;

/** The console without the lines of every guest. */
export function withoutRoutine(lines: readonly string[]): string[] {
  return lines.filter((line) => line.trim() !== '' && !CONSOLE_ROUTINE.test(line));
}

/** Those of a guest's lines that are about a failure. */
export function guestErrors(lines: readonly string[]): string[] {
  return lines.filter((line) => GUEST_FAILURE.test(line) && !GUEST_ROUTINE.test(line));
}
