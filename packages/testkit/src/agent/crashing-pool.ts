/**
 * A program that takes, keeps and releases slots until it is killed.
 * `node crashing-pool.ts <directory> <host namespace> <instance>`.
 */
import { openTestPool } from './test-pool.ts';

const [directory = '', hostNamespace = '', instance = ''] = process.argv.slice(2);
const { pool } = await openTestPool({ directory, hostNamespace, instance, poolSize: 3 });

for (let turn = 0; ; turn += 1) {
  const slots = await Promise.all(
    ['a', 'b', 'c'].map((name) =>
      pool.acquire({ owner: `sb${process.pid}x${turn}${name}`, allowInternet: true }),
    ),
  );
  await Promise.all(slots.map((slot) => pool.release(slot)));
}
