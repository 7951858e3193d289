import { constants } from 'node:os';
import koffi from 'koffi';
import { Arena } from './arena.ts';
import { checked, libc } from './libc.ts';
import { closeFd } from './poll.ts';

const socket = libc.func('int socket(int domain, int type, int protocol)');
const bind = libc.func('int bind(int fd, void *address, unsigned int length)');
const listen = libc.func('int listen(int fd, int backlog)');
const accept4 = libc.func('int accept4(int fd, void *address, void *length, int flags)');
const connect = libc.func('int connect(int fd, void *address, unsigned int length)');
const recvmsg = libc.func('intptr_t recvmsg(int fd, intptr_t message, int flags)');
const sendmsg = libc.func('intptr_t sendmsg(int fd, intptr_t message, int flags)');
const getsockopt = libc.func(
  'int getsockopt(int fd, int level, int option, void *value, void *length)',
);

const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC_NONBLOCK = 0o2004001;
const SOCK_STREAM_CLOEXEC = 0o2000001;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SCM_RIGHTS = 1;
const MSG_CMSG_CLOEXEC = 0x40000000;
/** Room for a path and its terminator; unix(7). */
const SUN_PATH_BYTES = 108;

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface ReceivedMessage {
  readonly bytes: Buffer;
  /** The file descriptors received with them, close-on-exec. The caller owns them. */
  readonly fds: readonly number[];
}

/** A non-blocking listening stream socket at `path`, for {@link acceptUnix}. The caller closes it. */
export function listenUnix(path: string, backlog = 1): number {
  const address = addressOf(path);
  const fd = checked('socket', socket(AF_UNIX, SOCK_STREAM_CLOEXEC_NONBLOCK, 0));
  try {
    checked(`bind ${path}`, bind(fd, address, address.length));
    checked('listen', listen(fd, backlog));
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** The next connection, non-blocking, or undefined if none waits. */
export function acceptUnix(fd: number): number | undefined {
  const connection = accept4(fd, null, null, 0o2004000);
  if (connection < 0 && koffi.errno() === constants.errno.EAGAIN) return undefined;
  return checked('accept4', connection);
}

/** A blocking connection to the stream socket at `path`. The caller closes it. */
export function connectUnix(path: string): number {
  const address = addressOf(path);
  const fd = checked('socket', socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0));
  try {
    checked(`connect ${path}`, connect(fd, address, address.length));
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** The credentials of the peer; `SO_PEERCRED` of unix(7). */
export function peerCredentials(fd: number): PeerCredentials {
  const credentials = new Uint32Array(3);
  const length = Uint32Array.of(credentials.byteLength);
  checked('getsockopt', getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length));
  const [pid = 0, uid = 0, gid = 0] = credentials;
  return { pid, uid, gid };
}

// The layout of struct msghdr and struct cmsghdr on x86-64 and arm64, within one arena:
// the message header, one iovec, the control buffer, then the bytes.
const MSGHDR_BYTES = 56;
const IOVEC_AT = MSGHDR_BYTES;
const CONTROL_AT = 128;
const CMSG_HEADER_BYTES = 16;
const MAX_FDS = 4;
const CONTROL_BYTES = CMSG_HEADER_BYTES + MAX_FDS * 4;
const DATA_AT = 4096;

function messageArena(dataBytes: number): { arena: Arena; view: DataView } {
  const arena = new Arena(DATA_AT + Math.ceil(dataBytes / 4096) * 4096);
  const view = new DataView(arena.bytes.buffer);
  const pointer = (at: number, value: number) => view.setBigUint64(at, BigInt(value), true);
  pointer(16, arena.address + IOVEC_AT);
  pointer(24, 1);
  pointer(32, arena.address + CONTROL_AT);
  pointer(40, CONTROL_BYTES);
  pointer(IOVEC_AT, arena.address + DATA_AT);
  pointer(IOVEC_AT + 8, dataBytes);
  return { arena, view };
}

/**
 * Receives what waits on a non-blocking socket, at most `maxBytes`, with up to
 * four file descriptors (`SCM_RIGHTS`). No bytes: the other end has closed.
 * Undefined: nothing waits.
 */
export function receiveWithFds(fd: number, maxBytes: number): ReceivedMessage | undefined {
  const { arena, view } = messageArena(maxBytes);
  using _memory = arena;
  const received = recvmsg(fd, arena.address, MSG_CMSG_CLOEXEC);
  if (received < 0 && koffi.errno() === constants.errno.EAGAIN) return undefined;
  const length = checked('recvmsg', Number(received));
  const bytes = Buffer.from(arena.bytes.slice(DATA_AT, DATA_AT + length));
  return { bytes, fds: readControl(view) };
}

function readControl(view: DataView): number[] {
  if (Number(view.getBigUint64(40, true)) < CMSG_HEADER_BYTES) return [];
  const length = Number(view.getBigUint64(CONTROL_AT, true));
  const isRights =
    view.getInt32(CONTROL_AT + 8, true) === SOL_SOCKET &&
    view.getInt32(CONTROL_AT + 12, true) === SCM_RIGHTS;
  if (!isRights) return [];
  const fds: number[] = [];
  for (let at = CMSG_HEADER_BYTES; at + 4 <= Math.min(length, CONTROL_BYTES); at += 4) {
    fds.push(view.getInt32(CONTROL_AT + at, true));
  }
  return fds;
}

/** Sends bytes with one file descriptor, as Firecracker does for its page-fault handler. */
export function sendWithFd(socketFd: number, bytes: Uint8Array, fd: number): void {
  const { arena, view } = messageArena(bytes.length);
  using _memory = arena;
  arena.bytes.set(bytes, DATA_AT);
  view.setBigUint64(40, 24n, true);
  view.setBigUint64(CONTROL_AT, BigInt(CMSG_HEADER_BYTES + 4), true);
  view.setInt32(CONTROL_AT + 8, SOL_SOCKET, true);
  view.setInt32(CONTROL_AT + 12, SCM_RIGHTS, true);
  view.setInt32(CONTROL_AT + CMSG_HEADER_BYTES, fd, true);
  checked('sendmsg', Number(sendmsg(socketFd, arena.address, 0)));
}

function addressOf(path: string): Buffer {
  const encoded = Buffer.from(path);
  if (encoded.length >= SUN_PATH_BYTES) {
    throw new RangeError(`${path} is too long for a Unix socket (at most 107 bytes).`);
  }
  const address = Buffer.alloc(2 + SUN_PATH_BYTES);
  address.writeUInt16LE(AF_UNIX, 0);
  encoded.copy(address, 2);
  return address;
}
