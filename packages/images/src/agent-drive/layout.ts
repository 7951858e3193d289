/**
 * Paths on the agent drive, as the guest sees them. All our files are below one directory that
 * no image has.
 */
export const AGENT_DIRECTORY = '/.torpor';

/** The program that the kernel runs to load a module (proc_sys_kernel(5), `modprobe`). */
export const MODPROBE = `${AGENT_DIRECTORY}/bin/modprobe`;

/** The guest's first program after the initramfs, and its arguments. */
export function agentCommand(): readonly string[] {
  return [
    `${AGENT_DIRECTORY}/bin/tini`,
    '--',
    `${AGENT_DIRECTORY}/bin/node`,
    `${AGENT_DIRECTORY}/envd/start.cjs`,
    '--guest',
  ];
}
