import type { Parser } from './values.ts';

/** One setting: every place where it can be given, and how its value is read and shown. */
export interface Setting<T> {
  /** In the configuration file. */
  readonly name: string;
  /** In the environment. */
  readonly variable: string;
  /** On the command line. */
  readonly flag?: string;
  readonly meaning: string;
  readonly parse: Parser<T>;
  /** The value as it would be written, for display. Undefined hides all of it. */
  show(value: T): string | number | boolean | undefined;
  /** Whether a part of the value is never shown. */
  readonly secret?: true;
  /** Describes what applies if it is not set, where there is no default value. */
  readonly unset?: string;
}

/** A setting with a default value. */
export interface SettingWithDefault<T> extends Setting<T> {
  readonly defaultValue: T;
}

export type Description<T> = Omit<Setting<T>, 'show'> & Partial<Pick<Setting<T>, 'show'>>;

export function setting<T extends string | number | boolean>(
  description: Description<T>,
): Setting<T> {
  return { show: (value) => value, ...description };
}

export function withDefault<T extends string | number | boolean>(
  description: Description<T> & { readonly defaultValue: NoInfer<T> },
): SettingWithDefault<T> {
  return { show: (value) => value, ...description };
}
