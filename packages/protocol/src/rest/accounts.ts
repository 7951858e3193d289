import { z } from 'zod';
import { emailSchema } from '../email.ts';
import { PERMISSION_NAMES } from '../permissions.ts';
import { displayNameSchema } from './common.ts';

export const TEAM_ROLES = ['owner', 'admin', 'member'] as const;

/** In characters. A longer password is refused, whatever its length in bytes; none is truncated. */
export const MIN_PASSWORD_LENGTH = 8;
export const MAX_PASSWORD_LENGTH = 256;

export const roleSchema = z.enum(TEAM_ROLES).meta({ id: 'TeamRole' });

const timeSchema = z.iso.datetime();

const nameSchema = z.string().trim().pipe(displayNameSchema(100)).meta({ example: 'Ada Lovelace' });

const newPasswordSchema = z
  .string()
  .min(MIN_PASSWORD_LENGTH)
  .max(MAX_PASSWORD_LENGTH)
  .meta({ format: 'password' });

/** A password that is checked. Any text: what it must be like is no matter here. */
const givenPasswordSchema = z.string().max(4096).meta({ format: 'password' });

const linkTokenSchema = z
  .string()
  .max(128)
  .meta({ description: 'The part of the link after the `#`.' });

const sessionModeSchema = z.enum(['cookie', 'token']).default('cookie').meta({
  description:
    '`cookie`: the session is a cookie, which scripts cannot read. `token`: it is `token` in the response, to be sent as `Authorization: Bearer`.',
});

export const loginSchema = z
  .strictObject({ email: emailSchema, password: givenPasswordSchema, mode: sessionModeSchema })
  .meta({ id: 'Login' });

export const signUpSchema = z
  .strictObject({
    email: emailSchema,
    password: newPasswordSchema,
    name: nameSchema,
    invitation: linkTokenSchema.optional(),
    mode: sessionModeSchema,
  })
  .meta({ id: 'SignUp' });

export const userSchema = z
  .strictObject({
    id: z.string(),
    email: z.string(),
    name: z.string(),
    is_admin: z.boolean().meta({ description: 'Whether the user operates the platform.' }),
    status: z.enum(['active', 'disabled']),
    has_password: z.boolean(),
    created_at: timeSchema,
  })
  .meta({ id: 'User' });

export type User = z.infer<typeof userSchema>;

export const userListSchema = z.array(userSchema);

export const teamSchema = z
  .strictObject({
    id: z.string(),
    name: z.string(),
    created_at: timeSchema,
    role: roleSchema.optional().meta({ description: 'That of the user who asks.' }),
  })
  .meta({ id: 'Team' });

export type Team = z.infer<typeof teamSchema>;

export const teamListSchema = z.array(teamSchema);

/** Who the caller is. */
export const callerSchema = z
  .strictObject({
    type: z.enum(['user', 'api_key', 'system']),
    user: userSchema.optional().meta({ description: 'Of a session.' }),
    api_key: z.strictObject({ id: z.string(), name: z.string() }).optional(),
    team: teamSchema.optional().meta({ description: 'That in which requests act.' }),
    permissions: z.array(z.enum(PERMISSION_NAMES)),
  })
  .meta({ id: 'Caller' });

export type Caller = z.infer<typeof callerSchema>;

const sessionSchema = z
  .strictObject({
    id: z.string(),
    current: z.boolean().meta({ description: 'Whether it is the one that asks.' }),
    address: z.string().optional().meta({ description: 'Where it was begun.' }),
    user_agent: z.string().optional(),
    created_at: timeSchema,
    last_used: timeSchema.meta({ description: 'To the minute.' }),
    expires_at: timeSchema,
  })
  .meta({ id: 'Session' });

export type Session = z.infer<typeof sessionSchema>;

export const sessionListSchema = z.array(sessionSchema);

export const startedSessionSchema = z
  .strictObject({
    user: userSchema,
    team_id: z.string().optional(),
    expires_at: timeSchema,
    token: z.string().optional().meta({ description: 'With the mode `token`.' }),
  })
  .meta({ id: 'StartedSession' });

export type StartedSession = z.infer<typeof startedSessionSchema>;

export const switchTeamSchema = z.strictObject({ team_id: z.string() }).meta({ id: 'SwitchTeam' });

export const updateMeSchema = z.strictObject({ name: nameSchema }).meta({ id: 'UpdateMe' });

export const deleteMeSchema = z
  .strictObject({
    confirmation: z.string().meta({ description: 'The email address of the account.' }),
  })
  .meta({ id: 'DeleteMe' });

export const changePasswordSchema = z
  .strictObject({
    current_password: givenPasswordSchema
      .optional()
      .meta({ description: 'Required if the account has a password.' }),
    new_password: newPasswordSchema,
  })
  .meta({ id: 'ChangePassword' });

export const setPasswordSchema = z
  .strictObject({ token: linkTokenSchema, new_password: newPasswordSchema })
  .meta({ id: 'SetPassword' });

export const requestResetSchema = z
  .strictObject({ email: emailSchema })
  .meta({ id: 'RequestPasswordReset' });

const providerIdSchema = z.enum(['github', 'oidc']);

/** A path of the server; a URL could lead a user anywhere. */
const returnToSchema = z
  .string()
  .max(2048)
  .regex(/^\/(?![/\\])[^\\\p{Cc}]*$/u, 'must be a path of this server')
  .meta({ description: 'A path of this server, where the browser goes at last.' });

/** With what users can log in, and who can sign up. */
export const loginOptionsSchema = z
  .strictObject({
    providers: z.array(z.strictObject({ id: providerIdSchema, name: z.string() })),
    sign_up: z.boolean().meta({ description: 'Whether everyone can make an account.' }),
    password_reset: z.boolean().meta({ description: 'Whether the server sends mail.' }),
  })
  .meta({ id: 'LoginOptions' });

export type LoginOptions = z.infer<typeof loginOptionsSchema>;

export const providerParamsSchema = z.object({ provider: z.string() });

export const startLoginQuerySchema = z.object({ return_to: returnToSchema.optional() });

export const startLoginSchema = z
  .strictObject({ invitation: linkTokenSchema.optional(), return_to: returnToSchema.optional() })
  .meta({ id: 'StartProviderLogin' });

export const linkIdentitySchema = z
  .strictObject({ provider: providerIdSchema, return_to: returnToSchema.optional() })
  .meta({ id: 'LinkIdentity' });

/** Where a browser is to go. It gets a cookie with this response, and must bring it back. */
export const providerUrlSchema = z.strictObject({ url: z.string() }).meta({ id: 'ProviderUrl' });

export type ProviderUrl = z.infer<typeof providerUrlSchema>;

const identitySchema = z
  .strictObject({
    id: z.string(),
    provider: providerIdSchema,
    label: z.string().meta({ description: 'How the account was called when it was last used.' }),
    created_at: timeSchema,
    last_used: timeSchema,
  })
  .meta({ id: 'Identity' });

export type Identity = z.infer<typeof identitySchema>;

export const identityListSchema = z.array(identitySchema);

/** For a program that a user logs in with a browser. */
export const deviceLoginSchema = z
  .strictObject({
    device_code: z.string().meta({ description: 'A secret of the program.' }),
    user_code: z
      .string()
      .meta({ description: 'For the user to enter, and to compare.', example: 'BCDF-GHJK' }),
    verification_uri: z.string().meta({ description: 'The page on which to enter it.' }),
    expires_in: z.int().meta({ description: 'In seconds.' }),
    interval: z
      .int()
      .meta({ description: 'How long to wait between requests for the session, in seconds.' }),
  })
  .meta({ id: 'DeviceLogin' });

export type DeviceLogin = z.infer<typeof deviceLoginSchema>;

export const deviceTokenSchema = z
  .strictObject({ device_code: z.string().max(128) })
  .meta({ id: 'DeviceToken' });

export const devicePendingSchema = z
  .strictObject({ status: z.literal('pending'), interval: z.int() })
  .meta({ id: 'DevicePending' });

export type DevicePending = z.infer<typeof devicePendingSchema>;

export const createUserSchema = z
  .strictObject({
    email: emailSchema,
    name: nameSchema.optional().meta({ description: 'The default is made from the address.' }),
    is_admin: z.boolean().default(false),
  })
  .meta({ id: 'CreateUser' });

export const updateUserSchema = z
  .strictObject({
    status: z.enum(['active', 'disabled']).optional(),
    is_admin: z.boolean().optional(),
  })
  .meta({ id: 'UpdateUser' });

/** A link that works once. */
export const oneTimeLinkSchema = z
  .strictObject({
    link: z.string().meta({ description: 'It is shown only here.' }),
    expires_at: timeSchema,
  })
  .meta({ id: 'OneTimeLink' });

export type OneTimeLink = z.infer<typeof oneTimeLinkSchema>;

export const createdUserSchema = userSchema
  .extend(oneTimeLinkSchema.shape)
  .meta({ id: 'CreatedUser' });

export type CreatedUser = z.infer<typeof createdUserSchema>;
