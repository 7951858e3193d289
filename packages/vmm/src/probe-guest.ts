/**
 * A guest that proves that a VMM works: an initramfs whose only program, some hundred bytes of
 * machine code, prints {@link PROBE_MESSAGE} and resets the machine. By then the kernel has
 * started, and a switch to user mode, system calls and page faults there have worked.
 */

export const PROBE_MESSAGE = 'torpor-probe: user mode works';

// x86-64: system call numbers of asm/unistd_64.h, magic numbers of reboot(2).
const CODE_ADDRESS = 0x400000;
const HEADERS_BYTES = 64 + 56;

/** The initramfs as an uncompressed newc archive (Documentation/driver-api/early-userspace/buffer-format.rst). */
export function probeInitramfs(): Buffer {
  return Buffer.concat([
    entry({ name: 'dev', mode: 0o040755 }),
    // The kernel opens it as the first program's standard input, output and error.
    entry({ name: 'dev/console', mode: 0o020600, device: [5, 1] }),
    entry({ name: 'init', mode: 0o100755, content: probeProgram() }),
    entry({ name: 'TRAILER!!!', mode: 0 }),
  ]);
}

/** A static ELF executable, elf(5): one loaded segment that holds the headers, the code and the text. */
function probeProgram(): Buffer {
  const text = Buffer.from(`\n${PROBE_MESSAGE}\n`);
  const code = Buffer.concat([
    bytes('b8 01 00 00 00'), // mov eax, SYS_write
    bytes('bf 01 00 00 00'), // mov edi, 1
    bytes('48 8d 35 35 00 00 00'), // lea rsi, [rip + 53]: the text behind the code
    bytes('ba'), // mov edx, length
    uint32(text.length),
    bytes('0f 05'), // syscall
    bytes('b8 10 00 00 00'), // mov eax, SYS_ioctl
    bytes('bf 01 00 00 00'), // mov edi, 1
    bytes('be 09 54 00 00'), // mov esi, TCSBRK
    bytes('ba 01 00 00 00'), // mov edx, 1: wait until all is sent, as tcdrain(3) does
    bytes('0f 05'), // syscall
    bytes('b8 a9 00 00 00'), // mov eax, SYS_reboot
    bytes('bf ad de e1 fe'), // mov edi, LINUX_REBOOT_MAGIC1
    bytes('be 69 19 12 28'), // mov esi, LINUX_REBOOT_MAGIC2
    bytes('ba 67 45 23 01'), // mov edx, LINUX_REBOOT_CMD_RESTART
    bytes('0f 05'), // syscall
    bytes('eb fe'), // jmp to itself until the reset
  ]);
  const size = HEADERS_BYTES + code.length + text.length;
  const header = Buffer.alloc(64);
  bytes('7f 45 4c 46 02 01 01').copy(header);
  header.writeUInt16LE(2, 16); // ET_EXEC
  header.writeUInt16LE(62, 18); // EM_X86_64
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(CODE_ADDRESS + HEADERS_BYTES), 24);
  header.writeBigUInt64LE(64n, 32); // program headers follow
  header.writeUInt16LE(64, 52);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(1, 56);
  const segment = Buffer.alloc(56);
  segment.writeUInt32LE(1, 0); // PT_LOAD
  segment.writeUInt32LE(5, 4); // readable and executable
  segment.writeBigUInt64LE(BigInt(CODE_ADDRESS), 16);
  segment.writeBigUInt64LE(BigInt(CODE_ADDRESS), 24);
  segment.writeBigUInt64LE(BigInt(size), 32);
  segment.writeBigUInt64LE(BigInt(size), 40);
  segment.writeBigUInt64LE(4096n, 48);
  return Buffer.concat([header, segment, code, text]);
}

interface ArchiveEntry {
  readonly name: string;
  /** st_mode, inode(7). */
  readonly mode: number;
  readonly content?: Buffer;
  /** Major and minor number. */
  readonly device?: readonly [number, number];
}

function entry({ name, mode, content = Buffer.alloc(0), device = [0, 0] }: ArchiveEntry): Buffer {
  const fields = [
    0, // inode
    mode,
    0, // uid
    0, // gid
    1, // links
    0, // mtime
    content.length,
    ...[0, 0], // device of the file system
    ...device,
    name.length + 1,
    0, // checksum, unused
  ];
  const numbers = fields.map((field) => field.toString(16).padStart(8, '0')).join('');
  return Buffer.concat([padded(Buffer.from(`070701${numbers}${name}\0`)), padded(content)]);
}

function padded(content: Buffer): Buffer {
  return Buffer.concat([content, Buffer.alloc((4 - (content.length % 4)) % 4)]);
}

function bytes(hexadecimal: string): Buffer {
  return Buffer.from(hexadecimal.replaceAll(' ', ''), 'hex');
}

function uint32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
}
