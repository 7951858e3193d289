/**
 * A program for tests: stops as `torpor up` does, and appends what happens to the file that
 * its argument names.
 */
import { appendFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { processIo } from '@torpor/cli';
import { StopRequest } from '@torpor/cli/testing';

const [log = ''] = process.argv.slice(2);
/** During this time a second signal would terminate it at once. */
const STOP_MS = 600;

const stop = new StopRequest(processIo());
const alive = setInterval(() => undefined, 60_000);
appendFileSync(log, 'ready\n');
await stop.requested;
appendFileSync(log, 'stopping\n');
await delay(STOP_MS);
appendFileSync(log, 'stopped\n');
stop.dispose();
clearInterval(alive);
