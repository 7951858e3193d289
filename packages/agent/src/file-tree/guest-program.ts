import { FILE_TREE_PROGRAM } from './program-path.ts';
import type { FileTreeRequest } from './program-request.ts';

/** What runs the far side of a copy in a guest. */
export interface GuestProgram {
  readonly command: string;
  readonly args: readonly string[];
  /** What its standard input begins with; a stream of records follows. */
  readonly input: Uint8Array;
}

/**
 * Runs in the Node of the agent drive: takes the program from its standard input (its length
 * in four bytes, then the program), and gives it what follows. So the program is always of
 * our own version, whatever the sandbox was started with.
 */
const LOADER = `
(async () => {
  const input = process.stdin[Symbol.asyncIterator]();
  let head = Buffer.alloc(0);
  while (head.length < 4 || head.length < 4 + head.readUInt32BE(0)) {
    const { done, value } = await input.next();
    if (done) return;
    head = Buffer.concat([head, value]);
  }
  const end = 4 + head.readUInt32BE(0);
  const load = require('node:vm').runInThisContext(head.latin1Slice(4, end), 'torpor-cp.js');
  const module = { exports: {} };
  // The compiled packages are beside envd.
  const drive = require('node:path').join(process.execPath, '../../envd/');
  load(module.exports, require('node:module').createRequire(drive), module);
  await module.exports.main(process.argv[1], (async function* () {
    if (head.length > end) yield head.subarray(end);
    yield* { [Symbol.asyncIterator]: () => input };
  })());
})().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
`;

/** The program for a request, of our own version. */
export async function guestProgram(request: FileTreeRequest): Promise<GuestProgram> {
  // Loaded here: the near side does without what bundles it.
  const { AGENT_DIRECTORY, bundleScript } = await import('@torpor/images');
  const program = await bundleScript(FILE_TREE_PROGRAM);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(program.length);
  return {
    command: `${AGENT_DIRECTORY}/bin/node`,
    args: ['-e', LOADER, JSON.stringify(request)],
    input: Buffer.concat([length, program]),
  };
}
