import { checked, libc } from './libc.ts';

const sethostname = libc.func('int sethostname(const char *name, size_t length)');

/** Sets the host name of this UTS namespace; sethostname(2). Throws SystemError (EPERM, EINVAL over 64 bytes). */
export function setHostname(name: string): void {
  checked('sethostname', sethostname(name, Buffer.byteLength(name)));
}
