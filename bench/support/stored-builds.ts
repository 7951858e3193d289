import { readRecord, recordFileIn } from '@torpor/agent/testing';
import { BUILD_FILES, type Manifest, manifestTexts } from '@torpor/builds';
import type { Platform } from './platform.ts';

/** The build of a paused sandbox. */
export async function buildIdOf(platform: Platform, sandboxId: string): Promise<string> {
  const record = await readRecord(recordFileIn(platform.dataDir, sandboxId));
  if (record?.buildId === undefined) throw new Error(`Sandbox ${sandboxId} has no build.`);
  return record.buildId;
}

/** Bytes of RAM that a build itself stores, without those of its ancestors. */
export async function storedMemoryBytes(platform: Platform, buildId: string): Promise<number> {
  const manifest = (await manifests(platform)).find(({ id }) => id === buildId);
  if (manifest === undefined) throw new Error(`There is no build ${buildId}.`);
  return manifest.files.find(({ name }) => name === BUILD_FILES.memory)?.size ?? 0;
}

export async function newestBuildId(platform: Platform): Promise<string> {
  const newest = (await manifests(platform)).at(-1);
  if (newest === undefined) throw new Error('There is no build.');
  return newest.id;
}

/** Of all builds of a platform that may be running, oldest first. */
async function manifests(platform: Platform): Promise<Manifest[]> {
  const found: Manifest[] = [];
  for await (const text of manifestTexts(platform.dataDir)) found.push(JSON.parse(text));
  // Build ids start with their time (UUIDv7).
  return found.sort((a, b) => (a.id < b.id ? -1 : 1));
}
