import { TorporError } from '@torpor/protocol';
import { z } from 'zod';
import { type Api, addEndpoint } from '../endpoint.ts';
import { sandboxParamsSchema } from './sandboxes.ts';

const FRAMES =
  'Frames are JSON text. Without the header X-API-Key the first frame must be ' +
  '`{"type":"auth","token":"tpr_…"}`, within 5 s. Errors are `{"type":"error","data","code","fatal"}`. ';

const STREAMS = [
  {
    path: '/v1/sandboxes/{id}/exec/stream',
    operationId: 'execStream',
    summary: 'WebSocket: run a program; it is killed when the socket closes',
    description:
      'Client: `{"type":"start","cmd","args","envs","cwd","user","timeout_sec","stdin","tag","binary"}`, then ' +
      '`{"type":"stdin","data":<base64>}`, `{"type":"stdin_close"}`, `{"type":"stop"}`. ' +
      'Server: `{"type":"start","pid"}`, `{"type":"stdout"|"stderr","data","encoding"?:"base64"}`, ' +
      '`{"type":"exit","exit_code","error"?}`. With `"binary":true` output is sent as binary frames, ' +
      'a byte (1 standard output, 2 standard error) and then the bytes, and binary frames are input.',
    params: sandboxParamsSchema,
  },
  {
    path: '/v1/sandboxes/{id}/pty',
    operationId: 'pty',
    summary: 'WebSocket: a terminal; it goes on when the socket closes',
    description:
      'Client: `{"type":"start","cmd","args","cols","rows","envs","cwd","user"}` or ' +
      '`{"type":"connect","tag"}`, then `{"type":"input","data":<base64>}`, ' +
      '`{"type":"resize","cols","rows"}`, `{"type":"kill"}`. Server: `{"type":"started","tag","pid"}`, ' +
      '`{"type":"output","data":<base64>}`, `{"type":"exit","exit_code","error"?}`, `{"type":"ping"}`.',
    params: sandboxParamsSchema,
  },
  {
    path: '/v1/sandboxes/{id}/processes/{selector}/stream',
    operationId: 'processStream',
    summary: 'WebSocket: attach to a process; it goes on when the socket closes',
    description:
      'Client: `{"type":"stdin","data":<base64>}`, `{"type":"stdin_close"}`. ' +
      'Server: the frames of exec/stream.',
    params: sandboxParamsSchema.extend({ selector: z.string() }),
  },
] as const;

/** Documents the WebSockets, and tells whoever asks for one with a plain request what it is. */
export function addStreamRoutes(api: Api): void {
  for (const stream of STREAMS) {
    addEndpoint(
      api,
      {
        ...stream,
        method: 'get',
        description: FRAMES + stream.description,
        tag: 'Processes',
        responses: { 101: { description: 'The WebSocket is open.' } },
      },
      () => {
        throw new TorporError('invalid_request', 'This is a WebSocket: ask for an upgrade.', {
          remedy: 'Open it with a WebSocket client; see /docs for the frames.',
        });
      },
    );
  }
}
