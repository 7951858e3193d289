import * as z from 'zod';

/**
 * The constants of every guest. The addresses are the same in all of them,
 * each in its own network namespace, so that frozen memory stays valid in any
 * slot.
 */
export const GUEST = {
  address: '169.254.0.21',
  gateway: '169.254.0.22',
  prefixLength: 30,
  macAddress: '02:fc:00:00:00:05',
  interfaceName: 'eth0',
  /** The port of envd, as E2B's SDKs expect it. */
  envdPort: 49983,
  defaultUser: 'user',
} as const;

/**
 * Header of calls to envd: a user of the guest, as in `guestUserSchema`. E2B's own ways to
 * name one (Basic authorization, the parameter `username`) accept only accounts.
 */
export const USER_HEADER = 'torpor-user';

/** The metric of `Server-Timing` in which envd says how long it took until a response to a traced request began. */
export const ENVD_TIMING = 'envd';

/**
 * The order of the block devices: initramfs, kernel command line and VMM
 * drivers agree on it.
 */
export const GUEST_DRIVES = {
  /** Read-only ext4: the image. */
  base: { id: 'base', device: '/dev/vda' },
  /** Read-only: Node.js, envd, tini and the libraries they need. */
  agent: { id: 'agent', device: '/dev/vdb' },
  /** Writable ext4: the upper layer of the root file system. */
  upper: { id: 'upper', device: '/dev/vdc' },
} as const;

/**
 * Body of envd's `POST /init`: what gives a booted or restored guest the
 * identity of *this* sandbox. The first seven fields are E2B's; the rest are Torpor's.
 */
export const initRequestSchema = z.strictObject({
  accessToken: z.string().optional(),
  envVars: z.record(z.string(), z.string()).optional(),
  /** RFC 3339, the host's clock. */
  timestamp: z.string().optional(),
  defaultUser: z.string().optional(),
  defaultWorkdir: z.string().optional(),
  hyperloopIP: z.string().optional(),
  lifecycleID: z.string().optional(),
  caBundle: z.string().optional(),
  volumeMounts: z.array(z.unknown()).optional(),
  hostname: z.string().optional(),
  /** 32 hexadecimal digits, for /etc/machine-id. */
  machineId: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .optional(),
  /** Base64 of at least 32 random bytes, mixed into the kernel's generator, which is then reseeded. */
  entropy: z.string().optional(),
  /** Addresses for /etc/resolv.conf. */
  nameservers: z.array(z.string()).optional(),
});

export type InitRequest = z.infer<typeof initRequestSchema>;
