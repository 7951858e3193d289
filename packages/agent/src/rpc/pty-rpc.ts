import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { hostAgent } from '@torpor/protocol';
import { type ProcessEvent, programEnd } from '../guest/process-events.ts';
import { killProcess } from '../guest/processes.ts';
import { attachPty, byTag, resizePty, sendPtyInput } from '../guest/pty.ts';
import type { SandboxRegistry } from '../registry/registry.ts';

type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  'ptyAttach' | 'ptySendInput' | 'ptyResize' | 'ptyKill'
>;

/** The calls about terminals in a guest. A terminal keeps running when its viewer disconnects. */
export function ptyRpc(registry: SandboxRegistry): Methods {
  return {
    async *ptyAttach(request, { signal }) {
      using lease = await registry.use(request.sandboxId);
      const { guest } = lease;
      const { tag, cmd, args, envs, cwd, user, cols, rows } = request;
      const pty = attachPty(guest, { tag, cmd, args, envs, cwd, user, cols, rows, signal });
      for await (const event of pty.events) {
        const message = attachMessage(event, pty.tag);
        if (message !== undefined) yield message;
      }
    },

    async ptySendInput({ sandboxId, tag, data }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      await sendPtyInput(guest, tag, data, { signal });
      return {};
    },

    async ptyResize({ sandboxId, tag, cols, rows }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      await resizePty(guest, tag, { cols, rows }, { signal });
      return {};
    },

    async ptyKill({ sandboxId, tag }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      await killProcess(guest, byTag(tag), 'SIGKILL', { signal });
      return {};
    },
  };
}

function attachMessage(
  event: ProcessEvent,
  tag: string,
): MessageInitShape<typeof hostAgent.PtyAttachResponseSchema> | undefined {
  switch (event.case) {
    case 'start':
      return { event: { case: 'started', value: { pid: event.value.pid, tag } } };
    case 'data': {
      const data = event.value.output.value;
      return data === undefined ? undefined : { event: { case: 'output', value: { data } } };
    }
    case 'end':
      return { event: { case: 'exited', value: programEnd(event.value) } };
    case 'keepalive':
    case undefined:
      return undefined;
  }
}
