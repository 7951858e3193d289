import type { Reference } from '@torpor/builds';
import { TorporError } from '@torpor/protocol';

/** Kept boots have names of their own among the templates. */
export const BOOT_PREFIX = 'boot-';

/** What refers to a build, for people: kept boots are stored among the templates. */
export function describeReference({ kind, name }: Pick<Reference, 'kind' | 'name'>): string {
  return kind === 'template' && name.startsWith(BOOT_PREFIX)
    ? `kept-boot ${name.slice(BOOT_PREFIX.length)}`
    : `${kind} ${name}`;
}

/** Throws `invalid_request` for an invalid template id. */
export function checkTemplateId(templateId: string): void {
  if (/^[A-Za-z0-9._-]{1,128}$/.test(templateId) && !templateId.startsWith(BOOT_PREFIX)) return;
  throw new TorporError('invalid_request', `${JSON.stringify(templateId)} is not a template id.`);
}
