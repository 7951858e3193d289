/**
 * Whose a name is. Images and templates of the platform have the same name for every team, and no
 * team gives such a name to a snapshot of its own. But the platform may choose any name that is not
 * that of an image: what a team had before keeps its name there, until the team deletes it, and may be
 * replaced.
 *
 * Operations of two teams lock different names (`nameResource`). So a name is checked again in the
 * transaction that writes the pending row, which has locked it for all teams
 * (`TemplateRepository.lockName`); the platform's pending row counts as a template.
 */
import { REMEDIES, TorporError } from '@torpor/protocol';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import type { TemplateRepository } from './repository.ts';

/** Throws `template_name_taken` if a new snapshot of the team may not have the name. */
export async function requireFree(
  templates: TemplateRepository,
  teamId: string,
  { name, overwrite }: { readonly name: string; readonly overwrite: boolean },
): Promise<void> {
  if ((await templates.find(teamId, name)) !== undefined) {
    if (overwrite) return;
    throw new TorporError('template_name_taken', `There is already a snapshot ${name}.`, {
      remedy: REMEDIES.replaceSnapshot,
    });
  }
  if (teamId !== PLATFORM_TEAM_ID && (await templates.isOfPlatform(name))) {
    throw new TorporError(
      'template_name_taken',
      `${name} is the name of a template of the platform.`,
    );
  }
}
