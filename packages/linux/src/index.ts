export { Arena, bytesAt, discardPages } from './arena.ts';
export { syncDirectory, writeFileAtomically } from './atomic-file.ts';
export { setSystemClock } from './clock.ts';
export { CommandError, type CommandOptions, runCommand } from './command.ts';
export { type Credentials, withCredentials } from './credentials.ts';
export { addEntropy } from './entropy.ts';
export { FileMapping } from './file-mapping.ts';
export { type FileSystemType, fileSystemType } from './file-system-type.ts';
export { findProgram, type ProgramSearch, SYSTEM_DIRECTORIES } from './find-program.ts';
export { type FileLock, tryLockFile } from './flock.ts';
export { setHostname } from './hostname.ts';
export { ignoreMissing } from './ignore-missing.ts';
export { IN, Inotify, type InotifyEvent } from './inotify.ts';
export { checkedInterfaceName, type IpBatchOptions, ipBatch, ipJson } from './ip.ts';
export { KernelModules, type KernelModulesOptions } from './kernel-modules.ts';
export { SystemError } from './libc.ts';
export { linkOpenFile, O_TMPFILE } from './link-open-file.ts';
export { linkXattr, linkXattrNames, setLinkXattr } from './link-xattr.ts';
export { makeNode } from './mknod.ts';
export { setModificationTime } from './modification-time.ts';
export { mountMemoryFile } from './mount.ts';
export {
  listNamespaces,
  type NamespaceOptions,
  NETNS_DIRECTORY,
  readNetSysctl,
  runInNamespace,
  writeNetSysctls,
} from './netns.ts';
export { nftApply, nftInetTable, nftList } from './nft.ts';
export { lowerOpenFilesLimit } from './open-files-limit.ts';
export { exitOfPidfd, killPidfd, openPidfd, type ProcessExit } from './pidfd.ts';
export { createPipe, type Pipe, widenPipe } from './pipe.ts';
export { closeFd, notifyFd, PollSet, WakeUp } from './poll.ts';
export { reserveBlocks } from './preallocate.ts';
export {
  exitOfZombie,
  identifyProcess,
  isProcessAlive,
  type ProcessIdentity,
  signalProcess,
} from './process.ts';
export { copySparse, dataExtents, type FileExtent, type SparseCopy } from './sparse.ts';
export { spawnOnTerminal, type TerminalProgram } from './spawn.ts';
export { resetTcpConnections } from './tcp.ts';
export { openTerminal, resizeTerminal, type Terminal, type TerminalWindow } from './terminal.ts';
export type { ToolObject } from './tool-json.ts';
export { tscKhz } from './tsc.ts';
export {
  acceptUnix,
  connectUnix,
  listenUnix,
  type PeerCredentials,
  peerCredentials,
  type ReceivedMessage,
  receiveWithFds,
  sendWithFd,
} from './unix-socket.ts';
export {
  createUserfaultfd,
  UFFD_EVENT,
  UFFD_FEATURE_EVENT_REMOVE,
  UFFD_GONE,
  UFFD_RETRY,
  UffdEvents,
  uffdCopy,
  uffdRegister,
  uffdUnregister,
  uffdZero,
} from './userfaultfd.ts';
export { getXattr, listXattrs, removeXattr, setXattr, type XattrTarget } from './xattr.ts';
