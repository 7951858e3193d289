import { z } from 'zod';
import { emailSchema } from '../email.ts';
import { oneTimeLinkSchema, roleSchema } from './accounts.ts';
import { displayNameSchema } from './common.ts';

const teamNameSchema = z.string().trim().pipe(displayNameSchema(128)).meta({ example: 'Research' });

export const createTeamSchema = z.strictObject({ name: teamNameSchema }).meta({ id: 'CreateTeam' });

export const updateTeamSchema = z.strictObject({ name: teamNameSchema }).meta({ id: 'UpdateTeam' });

const memberSchema = z
  .strictObject({
    user_id: z.string(),
    name: z.string(),
    email: z.string(),
    role: roleSchema,
    joined_at: z.iso.datetime(),
  })
  .meta({ id: 'Member' });

export type Member = z.infer<typeof memberSchema>;

export const memberListSchema = z.array(memberSchema);

export const updateMemberSchema = z
  .strictObject({
    role: roleSchema.meta({
      description: '`owner` gives the team away: its owner becomes an admin.',
    }),
  })
  .meta({ id: 'UpdateMember' });

export const createInvitationSchema = z
  .strictObject({
    role: z.enum(['admin', 'member']).default('member'),
    email: emailSchema
      .optional()
      .meta({ description: 'The only account that may accept it; any account if omitted.' }),
  })
  .meta({ id: 'CreateInvitation' });

const invitationSchema = z
  .strictObject({
    id: z.string(),
    team_id: z.string(),
    role: roleSchema,
    email: z.string().optional(),
    created_by: z.string().optional(),
    created_at: z.iso.datetime(),
    expires_at: z.iso.datetime(),
  })
  .meta({ id: 'Invitation' });

export type Invitation = z.infer<typeof invitationSchema>;

export const invitationListSchema = z.array(invitationSchema);

export const createdInvitationSchema = invitationSchema
  .extend({
    ...oneTimeLinkSchema.shape,
    mailed: z.boolean().meta({ description: 'Whether the link is sent to the email address.' }),
  })
  .meta({ id: 'CreatedInvitation' });

export type CreatedInvitation = z.infer<typeof createdInvitationSchema>;

/** The token of an invitation, in a body so that no log or history has it. */
export const invitationTokenSchema = z
  .strictObject({ token: z.string().max(128) })
  .meta({ id: 'InvitationToken' });

/** What somebody who has the link may know. */
export const invitationPreviewSchema = z
  .strictObject({
    team_name: z.string(),
    role: roleSchema,
    email: z.string().optional(),
    expires_at: z.iso.datetime(),
  })
  .meta({ id: 'InvitationPreview' });

export type InvitationPreview = z.infer<typeof invitationPreviewSchema>;
