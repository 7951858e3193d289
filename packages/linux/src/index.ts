export { CommandError, type CommandOptions, runCommand } from './command.ts';
export { type Credentials, withCredentials } from './credentials.ts';
export { type FileSystemType, fileSystemType } from './file-system-type.ts';
export { type FileLock, tryLockFile } from './flock.ts';
export { IN, Inotify, type InotifyEvent } from './inotify.ts';
export { checkedInterfaceName, type IpBatchOptions, ipBatch, ipJson } from './ip.ts';
export { SystemError } from './libc.ts';
export {
  checkedNamespaceName,
  listNamespaces,
  type NamespaceOptions,
  NETNS_DIRECTORY,
  readNetSysctl,
  runInNamespace,
  writeNetSysctls,
} from './netns.ts';
export { checkedNftName, nftApply, nftInetTable, nftList } from './nft.ts';
export { createPipe, type Pipe } from './pipe.ts';
export { reserveBlocks } from './preallocate.ts';
export {
  identifyProcess,
  isProcessAlive,
  type ProcessIdentity,
  signalProcess,
} from './process.ts';
export { copySparse, dataExtents, type FileExtent, type SparseCopy } from './sparse.ts';
export { getXattr, listXattrs, removeXattr, setXattr, type XattrTarget } from './xattr.ts';
