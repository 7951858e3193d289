import type { Migration } from 'kysely/migration';
import { teamsAndSandboxes } from './0001-teams-and-sandboxes.ts';
import { templates } from './0002-templates.ts';
import { operations } from './0003-operations.ts';
import { fences } from './0004-fences.ts';
import { apiKeysAndAudit } from './0005-api-keys-and-audit.ts';
import { eventStream } from './0006-event-stream.ts';
import { usage } from './0007-usage.ts';
import { webhooks } from './0008-webhooks.ts';
import { idempotencyAndQuotas } from './0011-idempotency-and-quotas.ts';
import { hosts } from './0012-hosts.ts';
import { accounts } from './0013-accounts.ts';
import { placement } from './0014-placement.ts';
import { indexes } from './0016-indexes.ts';
import { platformTemplates } from './0017-platform-templates.ts';
import { signInAndMail } from './0018-sign-in-and-mail.ts';
import { responsibleUsers } from './0019-responsible-users.ts';
import { reconciling } from './0020-reconciling.ts';
import { secretKeyAndMachines } from './0021-secret-key-and-machines.ts';
import { auditOfAllTeams } from './0022-audit-of-all-teams.ts';
import { usageOfLostSandboxes } from './0023-usage-of-lost-sandboxes.ts';

/** All migrations, in the order in which they run. A name never changes once released. */
export const MIGRATIONS: Record<string, Migration> = {
  '0001-teams-and-sandboxes': teamsAndSandboxes,
  '0002-templates': templates,
  '0003-operations': operations,
  '0004-fences': fences,
  '0005-api-keys-and-audit': apiKeysAndAudit,
  '0006-event-stream': eventStream,
  '0007-usage': usage,
  '0008-webhooks': webhooks,
  '0011-idempotency-and-quotas': idempotencyAndQuotas,
  '0012-hosts': hosts,
  '0013-accounts': accounts,
  '0014-placement': placement,
  '0016-indexes': indexes,
  '0017-platform-templates': platformTemplates,
  '0018-sign-in-and-mail': signInAndMail,
  '0019-responsible-users': responsibleUsers,
  '0020-reconciling': reconciling,
  '0021-secret-key-and-machines': secretKeyAndMachines,
  '0022-audit-of-all-teams': auditOfAllTeams,
  '0023-usage-of-lost-sandboxes': usageOfLostSandboxes,
};
