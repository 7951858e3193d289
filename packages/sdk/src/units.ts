/** Whole seconds, rounded up, so that no limit becomes 0, which means no limit. */
export function seconds(milliseconds: number | undefined): number | undefined {
  return milliseconds === undefined ? undefined : Math.ceil(milliseconds / 1000);
}
