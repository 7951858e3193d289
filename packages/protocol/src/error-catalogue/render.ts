import { ERRORS, type ErrorCode } from '../errors.ts';

export const CATALOGUE_FILE = new URL('../../../../docs/errors.md', import.meta.url);

const INTRODUCTION = `# Errors

Written by \`npm run docs\` from \`packages/protocol/src/errors.ts\`; do not edit.

The API answers a request that fails with \`{"error":{"code","message","remedy"?,"issues"?}}\`. The \`code\` is stable and means
the same in the REST API, on WebSockets, in the SDK (\`TorporError.code\`) and in the output of \`torpor --json\`. The \`message\`
says what happened, the \`remedy\` what to do; their wording may change. \`issues\` names the fields of a request that were
refused.

Every response has the header \`X-Request-Id\` (\`TorporError.requestId\`), which finds the lines of the request in the logs of the
server and of the host agent. Where waiting may help, \`Retry-After\` (\`TorporError.retryAfterSec\`) says how many seconds.`;

/** `docs/errors.md`. */
export function renderCatalogue(): string {
  const codes = Object.keys(ERRORS).toSorted() as ErrorCode[];
  const rows = codes.map((code) => {
    const entry: Entry = ERRORS[code];
    const wait = entry.retryAfterSec === undefined ? '' : `${entry.retryAfterSec} s`;
    return [`\`${code}\``, String(entry.http), entry.meaning, entry.remedy, wait];
  });
  const table = [['code', 'HTTP', 'meaning', 'what to do', 'retry after'], ...rows];
  const widths = (table[0] ?? []).map((_, column) =>
    Math.max(...table.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const rule = widths.map((width) => '-'.repeat(width));
  const [header = [], ...body] = table;
  return `${INTRODUCTION}\n\n${[header, rule, ...body].map(line).join('\n')}\n`;
}

interface Entry {
  readonly http: number;
  readonly meaning: string;
  readonly remedy: string;
  readonly retryAfterSec?: number;
}
