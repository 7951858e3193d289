import { World } from '@torpor/testkit/agent';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { pauseSandbox } from './pause.ts';
import { resumeSandbox } from './resume.ts';

let world: World;

beforeEach(async () => {
  world = await World.open();
  await world.createSource();
});
afterEach(() => world[Symbol.asyncDispose]());

/** The size of `sun_path`; unix(7). */
const MAX_SOCKET_PATH_BYTES = 107;

test('each restore has a socket of its own, which the cleanup of an earlier attempt cannot remove', async () => {
  const serve = vi.spyOn(world.host.pages, 'serve');
  for (let round = 0; round < 3; round++) {
    await pauseSandbox(world.registry, world.source);
    await resumeSandbox(world.registry, world.source);
  }
  const paths = serve.mock.calls.map(([request]) => request.socketPath);
  expect(paths).toHaveLength(3);
  expect(new Set(paths).size).toBe(3);
  const longest = world.host.layout.runDirectory(world.source).padEnd(80, 'x');
  for (const path of paths) {
    const name = path.slice(world.host.layout.runDirectory(world.source).length);
    expect(Buffer.byteLength(longest + name)).toBeLessThanOrEqual(MAX_SOCKET_PATH_BYTES);
  }
});

test.each(['base', 'agent', 'kernel'])(
  'a build that does not name its %s is refused',
  async (role) => {
    const { builds } = world.host;
    await pauseSandbox(world.registry, world.source);
    const check = builds.check.bind(builds);
    builds.check = async (id) => {
      const build = await check(id);
      const { [role]: _missing, ...artifacts } = build.manifest.artifacts;
      return { ...build, manifest: { ...build.manifest, artifacts } };
    };
    await expect(resumeSandbox(world.registry, world.source)).rejects.toMatchObject({
      code: 'build_invalid',
      message: expect.stringContaining(`does not name its ${role}`),
    });
    expect(world.registry.get(world.source).state).toBe('paused');
  },
);
