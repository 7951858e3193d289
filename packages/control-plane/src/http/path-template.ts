import type { z } from 'zod';

/*
 * Paths with parameters, in the notation of OpenAPI: `/v1/sandboxes/{id}/pty`. HTTP requests
 * and WebSocket upgrades are routed by the same templates.
 */

const PARAMETER = /\{(\w+)\}/g;

/** The template in Hono's notation. */
export function routePattern(template: string): string {
  return template.replaceAll(PARAMETER, ':$1');
}

/** Extracts the parameters from a path, decoded; undefined for a path that does not match. */
export function pathMatcher(
  template: string,
): (path: string) => Readonly<Record<string, string>> | undefined {
  const source = template
    .split(PARAMETER)
    .map((part, index) => (index % 2 === 0 ? escapeRegExp(part) : `(?<${part}>[^/]+)`))
    .join('');
  const pattern = new RegExp(`^${source}$`);
  return (path) => {
    const match = pattern.exec(path);
    if (match === null) return undefined;
    const groups = Object.entries(match.groups ?? {});
    return Object.fromEntries(groups.map(([name, value]) => [name, decode(value)]));
  };
}

/** Throws if a template and the schema of its parameters do not name the same ones, which is a bug. */
export function assertParams(template: string, schema: z.ZodObject | undefined): void {
  const named = [...template.matchAll(PARAMETER)].map(([, name]) => name ?? '').sort();
  const described = Object.keys(schema?.shape ?? {}).sort();
  if (named.join() === described.join()) return;
  throw new Error(
    `${template} names the parameters [${named.join()}], and its schema describes [${described.join()}].`,
  );
}

function escapeRegExp(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

/** Invalid percent-encoding is left as it is, as in Hono. */
function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
