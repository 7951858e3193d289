import { TorporError } from '@torpor/protocol';
import type { z } from 'zod';
import { serveExecStream } from '../../streams/exec-stream.ts';
import { serveProcessStream } from '../../streams/process-stream.ts';
import { servePty } from '../../streams/pty-stream.ts';
import type { Session, StreamRouter } from '../../streams/session.ts';
import { parseWith } from '../../validation/parse-with.ts';
import { type Api, addEndpoint, defineEndpoint } from '../endpoint.ts';
import { pathMatcher } from '../path-template.ts';
import { processParams, sandboxParams } from './params.ts';

const FRAMES =
  'Frames are JSON text. Without credentials in the header the first frame must be ' +
  '`{"type":"auth","token":"tpr_…"}`, with a key or the token of a session, within 5 s. Errors are `{"type":"error","data","code","fatal"}`. ';

const ACCESS = 'sandboxes.exec';

/** A WebSocket of the API: its documentation, and its path. */
interface Stream {
  readonly addTo: (api: Api) => void;
  readonly route: StreamRouter;
}

interface StreamDescription<P extends z.ZodObject> {
  readonly path: string;
  readonly operationId: string;
  readonly summary: string;
  readonly description: string;
  readonly params: P;
}

function defineStream<P extends typeof sandboxParams>(
  { params: schema, description, ...described }: StreamDescription<P>,
  serve: (session: Session, params: z.output<P>) => Promise<void>,
): Stream {
  const endpoint = defineEndpoint({
    ...described,
    method: 'get',
    description: FRAMES + description,
    tag: 'Processes',
    access: ACCESS,
    params: schema,
    responses: { 101: { description: 'The WebSocket is open.' } },
  });
  const match = pathMatcher(described.path);
  return {
    addTo: (api) =>
      addEndpoint(api, endpoint, () => {
        throw new TorporError(
          'invalid_request',
          'This is a WebSocket: request an upgrade of the connection.',
          {
            remedy: 'Open it with a WebSocket client; see /docs for the frames.',
          },
        );
      }),
    route: (path) => {
      const matched = match(path);
      if (matched === undefined) return undefined;
      const params = parseWith(schema, matched, 'path');
      return {
        route: described.path,
        sandboxId: params.id,
        access: ACCESS,
        serve: (session) => serve(session, params),
      };
    },
  };
}

const EXEC = defineStream(
  {
    path: '/v1/sandboxes/{id}/exec/stream',
    operationId: 'execStream',
    summary: 'WebSocket: run a program, which is killed when the socket closes',
    description:
      'Client: `{"type":"start","cmd","args","envs","cwd","user","timeout_sec","stdin","tag","binary"}`, then ' +
      '`{"type":"stdin","data":<base64>}`, `{"type":"stdin_close"}`, `{"type":"stop"}`. ' +
      'Server: `{"type":"start","pid"}`, `{"type":"stdout"|"stderr","data","encoding"?:"base64"}`, ' +
      '`{"type":"exit","exit_code","error"?}`. With `"binary":true` output is sent as binary frames, ' +
      'a byte (1 standard output, 2 standard error) and then the bytes, and binary frames are input.',
    params: sandboxParams,
  },
  serveExecStream,
);

const PTY = defineStream(
  {
    path: '/v1/sandboxes/{id}/pty',
    operationId: 'pty',
    summary: 'WebSocket: a terminal, which stays open when the socket closes',
    description:
      'Client: `{"type":"start","cmd","args","cols","rows","envs","cwd","user"}` or ' +
      '`{"type":"connect","tag"}`, then `{"type":"input","data":<base64>}`, ' +
      '`{"type":"resize","cols","rows"}`, `{"type":"kill"}`. Server: `{"type":"started","tag","pid"}`, ' +
      '`{"type":"output","data":<base64>}`, `{"type":"exit","exit_code","error"?}`, `{"type":"ping"}`.',
    params: sandboxParams,
  },
  servePty,
);

const PROCESS = defineStream(
  {
    path: '/v1/sandboxes/{id}/processes/{selector}/stream',
    operationId: 'processStream',
    summary: 'WebSocket: attach to a process, which keeps running when the socket closes',
    description:
      'Client: `{"type":"stdin","data":<base64>}`, `{"type":"stdin_close"}`. ' +
      'Server: the frames of exec/stream.',
    params: processParams,
  },
  (session, { selector }) => serveProcessStream(session, selector),
);

const STREAMS: readonly Stream[] = [EXEC, PTY, PROCESS];

/** Documents the WebSockets, and refuses plain requests for them with an explanation. */
export function addStreamRoutes(api: Api): void {
  for (const stream of STREAMS) stream.addTo(api);
}

/** The WebSocket at a path. */
export const routeStream: StreamRouter = (path) => {
  for (const { route } of STREAMS) {
    const stream = route(path);
    if (stream !== undefined) return stream;
  }
  return undefined;
};
