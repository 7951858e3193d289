import * as z from 'zod';
import { runDaemon } from './daemon.ts';

// Compiling a parser for what is parsed a few times costs more than it saves, and most in a
// restored guest, which waits for its first `/init`.
z.config({ jitless: true });

runDaemon(process.argv.slice(2)).catch((error: unknown) => {
  console.error('envd:', error);
  process.exit(1);
});
