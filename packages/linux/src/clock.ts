import koffi from 'koffi';
import { checked, libc } from './libc.ts';

const timespec = koffi.struct({ tv_sec: 'int64_t', tv_nsec: 'int64_t' });
const clockSettime = libc.func('clock_settime', 'int', ['int', koffi.pointer(timespec)]);

const CLOCK_REALTIME = 0;

/**
 * Sets the system's clock to a time in milliseconds since 1970; clock_settime(2).
 * Throws SystemError (EPERM without CAP_SYS_TIME).
 */
export function setSystemClock(timeMs: number): void {
  const seconds = Math.floor(timeMs / 1000);
  const nanoseconds = Math.round((timeMs - seconds * 1000) * 1_000_000);
  checked(
    'clock_settime',
    clockSettime(CLOCK_REALTIME, { tv_sec: seconds, tv_nsec: Math.min(nanoseconds, 999_999_999) }),
  );
}
