/**
 * A program for tests: owns the embedded database of the data directory in its
 * argument and writes rows, one per line of standard output once it is acknowledged.
 */

import { startEmbeddedPostgres } from '@torpor/control-plane/testing';
import { Client } from 'pg';
import { pino } from 'pino';

const [dataDir = ''] = process.argv.slice(2);
const database = await startEmbeddedPostgres({ dataDir, logger: pino({ level: 'silent' }) });
const client = new Client(database.connection);
await client.connect();
await client.query('create table if not exists written (n integer primary key)');
for (let n = 1; ; n++) {
  await client.query('insert into written values ($1)', [n]);
  process.stdout.write(`${n}\n`);
}
