const PARENT_CHECK_INTERVAL_MS = 500;

/**
 * Calls `onExit` when the npm that started this process has ended: npm that is told to end
 * ends its shell only, and this process would continue as an orphan. Nothing announces that,
 * but its parent is another process afterwards. Does nothing in a process that npm did not
 * start. Returns what stops the watch.
 */
export function watchNpm(onExit: () => void): () => void {
  if (process.env.npm_lifecycle_event === undefined) return () => undefined;
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    onExit();
  }, PARENT_CHECK_INTERVAL_MS);
  timer.unref();
  return () => clearInterval(timer);
}
