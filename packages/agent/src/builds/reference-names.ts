import { TorporError } from '@torpor/protocol';

/** Kept boots have names of their own among the templates. */
export const BOOT_PREFIX = 'boot-';

/** Throws `invalid_request` for an invalid template id. */
export function checkTemplateId(templateId: string): void {
  if (/^[A-Za-z0-9._-]{1,128}$/.test(templateId) && !templateId.startsWith(BOOT_PREFIX)) return;
  throw new TorporError('invalid_request', `${JSON.stringify(templateId)} is not a template id.`);
}
