/**
 * How long a VMM that is alive may take to respond, or a program to print its version. A VMM
 * that has exited is noticed at once, so this limit only finds one that hangs: it is far above
 * what any healthy one takes on a slow or loaded machine, and interrupts no work that still
 * makes progress.
 */
export const HUNG_AFTER_MS = 120_000;
