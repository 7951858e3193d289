import { TorporError } from '@torpor/protocol';
import { describe, expect, test, vi } from 'vitest';
import { type Scenario, World } from '../agent/index.ts';
import { type Fault, Plan } from '../fault-points/index.ts';

const SETTLED = ['running', 'paused', 'error'];
/** A fault is injected at every nth point; 1 for a campaign. */
const STRIDE = Number(process.env.TORPOR_FAULT_STRIDE ?? 10);
const TIMEOUT_MS = 600_000;
const MOST_POINTS = 1000;
/** For the file operation that was in progress when an agent was killed. */
const STILL_TIMEOUT_MS = 10_000;

/** Checks the invariants after a fault; `point` says where it was. */
async function expectIntact(world: World, scenario: Scenario, point: string): Promise<void> {
  const { expected, act } = scenario;
  const { source, registry } = world;
  for (const state of Object.values(world.states())) {
    expect(SETTLED, `a sandbox after ${point}`).toContain(state);
  }
  expect(await world.faults(), `builds after ${point}`).toEqual([]);
  if (expected !== undefined) {
    if (registry.get(source).state === 'error') await world.revive(source);
    await act(world);
    await world.revive(source);
    expect(await world.read(source), `the guest after ${point}`).toBe(expected);
  } else {
    await act(world);
  }
  expect(await world.faults(), `builds after a second attempt after ${point}`).toEqual([]);
  expect(await world.clear(), `left after ${point}`).toEqual([]);
}

/** Runs a scenario with a fault; returns the point of the fault, or undefined if it was not reached. */
async function disturb(scenario: Scenario, fault: Fault): Promise<string | undefined> {
  const plan = new Plan(fault);
  await using world = await World.open(plan, scenario.keepBoots);
  await plan.run(() => scenario.prepare(world));
  plan.arm();
  const settled = plan.run(() => scenario.act(world)).catch((error: unknown) => error);
  const outcome = await Promise.race([settled, plan.crashed.then(() => 'killed')]);
  plan.lift();
  const point = plan.reached;
  if (point === undefined) return undefined;
  if (outcome === 'killed') {
    await vi.waitUntil(() => plan.isStill, { timeout: STILL_TIMEOUT_MS, interval: 1 });
    await world.nextAgent();
  } else if (outcome instanceof Error) {
    expect(TorporError.from(outcome).message).not.toBe('');
  }
  await world.plan.run(() => expectIntact(world, scenario, point));
  return point;
}

/**
 * Tests of scenarios with faults at their points. The test file must route file operations
 * through the points:
 *
 *     vi.mock('node:fs/promises', async (original) => {
 *       const { withPoints } = await import('@torpor/testkit/fault-points');
 *       return withPoints(await original());
 *     });
 */
export function describeFaults(scenarios: readonly Scenario[]): void {
  // By name: vitest abbreviates objects in titles.
  const named = scenarios.map((scenario) => [scenario.name, scenario] as const);
  describe.each(named)('%s', (_, scenario) => {
    test.each(['fail', 'full', 'crash'] as const)(
      'survives a %s at each of its points',
      async (kind) => {
        const points: string[] = [];
        const failures: string[] = [];
        for (let at = 0; at < MOST_POINTS; at += STRIDE) {
          try {
            const point = await disturb(scenario, { kind, at });
            if (point === undefined) break;
            points.push(point);
          } catch (error) {
            failures.push(`${kind} at point ${at}: ${TorporError.from(error).message}`);
          }
        }
        expect(failures).toEqual([]);
        expect(points.length).toBeGreaterThan(0);
      },
      TIMEOUT_MS,
    );
  });
}
