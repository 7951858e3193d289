import { stat, writeFile } from 'node:fs/promises';
import { FirecrackerDriver } from '@torpor/vmm';
import { afterEach, beforeEach, test } from 'vitest';
import { counted, MachineBench, printed } from '../machines.ts';
import { FakeInstallation } from './fake-installation.ts';

let fakes: FakeInstallation;
let bench: MachineBench;
const USER = { uid: 61_234, gid: 61_234 };

beforeEach(async () => {
  fakes = await FakeInstallation.create();
  bench = await MachineBench.create();
});

afterEach(async () => {
  await bench[Symbol.asyncDispose]();
  await fakes[Symbol.asyncDispose]();
});

async function guestFiles() {
  const kernelPath = `${bench.directory}/kernel`;
  await writeFile(kernelPath, 'a kernel');
  return { kernelPath, initramfsPath: kernelPath };
}

test('boots', async () => {
  const driver = new FirecrackerDriver({ firecracker: await fakes.install() });
  const spec = await bench.spec(await guestFiles(), 'guest=count', { user: USER });
  const vm = bench.track(await driver.start(spec));
  await printed(vm, 'guest: count 3');
  console.log(await fakes.calls());
  await vm.pause();
  const out = { statePath: `${bench.directory}/s`, memoryPath: `${bench.directory}/m` };
  console.log(await vm.snapshot?.({ kind: 'full', ...out }), await stat(out.memoryPath));
  const clone = bench.track(
    await driver.restore(await bench.spec(await guestFiles(), 'guest=count', {}), {
      statePath: out.statePath,
      memory: { kind: 'file', path: out.memoryPath },
    }),
  );
  await clone.resume();
  await printed(clone, 'guest: count 9');
  console.log((await clone.readConsole(1000)).toString(), await counted(vm));
});
