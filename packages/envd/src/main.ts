import { runDaemon } from './daemon.ts';

runDaemon(process.argv.slice(2)).catch((error: unknown) => {
  console.error('envd:', error);
  process.exit(1);
});
