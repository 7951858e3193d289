import * as z from 'zod';
import { runDaemon } from './daemon.ts';

// Compiling a parser that is used a few times costs more than it saves, most of all in a
// restored guest, which waits for its first `/init`.
z.config({ jitless: true });

runDaemon(process.argv.slice(2)).catch((error: unknown) => {
  console.error('envd:', error);
  process.exit(1);
});
