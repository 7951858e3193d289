/** Converts the input of this dialect's requests about sandboxes to the services' types. */
import {
  isSandboxState,
  type rest,
  SANDBOX_STATES,
  type SandboxState,
  TorporError,
} from '@torpor/protocol';
import type { ListRequest, SandboxRequest } from '../../sandboxes/service.ts';
import { invalidFields } from '../../validation/parse-with.ts';
import { cursorsOf, decodePageToken } from './page-token.ts';

export const SANDBOX_POSITIONS = cursorsOf('sandboxes', 'sandbox');

export function sandboxRequest(body: rest.CreateSandbox): SandboxRequest {
  return {
    template: body.template,
    vcpus: body.vcpus,
    memoryMb: body.memory_mb,
    diskSizeMb: body.disk_size_mb,
    timeoutSec: body.timeout_sec,
    autoPause: body.auto_pause,
    allowInternet: body.allow_internet,
    envs: body.envs ?? {},
    metadata: body.metadata ?? {},
    hostTags: body.host_tags,
  };
}

/** Fields of a {@link SandboxRequest} that a service may refuse, by their names in the body. */
const BODY_NAMES: ReadonlyMap<string, string> = new Map([
  ['memoryMb', 'memory_mb'],
  ['diskSizeMb', 'disk_size_mb'],
  ['hostTags', 'host_tags'],
]);

/** The same promise; a refusal of fields names them as the body does. */
export async function withBodyNames<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    if (!(error instanceof TorporError) || error.issues.length === 0) throw error;
    const issues = error.issues.map(({ field, problem }) => ({
      field: BODY_NAMES.get(field) ?? field,
      problem,
    }));
    throw invalidFields('request', issues, error.remedy);
  }
}

/** Throws `invalid_request`. */
export function listRequest(query: rest.ListSandboxesQuery): ListRequest {
  return {
    states: parseStates(query.state),
    template: query.template,
    metadata: parseLabels(query.metadata),
    after:
      query.next_token === undefined
        ? undefined
        : decodePageToken(SANDBOX_POSITIONS, query.next_token),
    limit: query.limit,
  };
}

function parseStates(list: string | undefined): readonly SandboxState[] {
  if (list === undefined) return SANDBOX_STATES.filter((state) => state !== 'stopped');
  return list.split(',').map((item) => {
    const state = item.trim();
    if (isSandboxState(state)) return state;
    throw new TorporError(
      'invalid_request',
      `state: ${JSON.stringify(state.slice(0, 64))} is not one of ${SANDBOX_STATES.join(', ')}.`,
    );
  });
}

function parseLabels(labels: string | readonly string[] | undefined): Record<string, string> {
  if (labels === undefined) return {};
  const list = typeof labels === 'string' ? [labels] : labels;
  return Object.fromEntries(
    list.map((label) => {
      const at = label.indexOf('=');
      if (at > 0) return [label.slice(0, at), label.slice(at + 1)];
      throw new TorporError('invalid_request', 'metadata must have the form key=value.');
    }),
  );
}
