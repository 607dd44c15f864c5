/** Lays lines of a day out: where they break, how high they reach, what is marked on the axes. Pure. */

export interface Sample {
  readonly at: number;
  readonly value: number | null;
}

export interface Frame {
  readonly from: number;
  readonly until: number;
  readonly low: number;
  readonly high: number;
  readonly width: number;
  readonly height: number;
}

const GAP = 2.5; // times the usual distance: nothing was recorded in between

/** Return the path of a line; it breaks where values are missing. At most one point for each pixel. */
export function linePath(samples: readonly Sample[], frame: Frame, every_s: number): string {
  let path = "";
  let last: number | null = null;
  for (const { at, value } of thinned(samples, frame)) {
    if (value === null) {
      last = null;
      continue;
    }
    const step_s = Math.max(every_s, secondsPerPixel(frame));
    const isJoined = last !== null && at - last <= GAP * step_s;
    path += `${isJoined ? "L" : "M"}${xOf(at, frame).toFixed(1)} ${yOf(value, frame).toFixed(1)}`;
    if (!isJoined) path += "h0.01"; // a lone point is seen too
    last = at;
  }
  return path;
}

function secondsPerPixel({ from, until, width }: Frame): number {
  return (until - from) / Math.max(1, width);
}

/** Return the mean of the samples of every pixel. */
function thinned(samples: readonly Sample[], frame: Frame): readonly Sample[] {
  const per_px = secondsPerPixel(frame);
  const byPixel = new Map<number, Sample[]>();
  for (const sample of samples) {
    const pixel = Math.floor((sample.at - frame.from) / per_px);
    const found = byPixel.get(pixel) ?? [];
    found.push(sample);
    byPixel.set(pixel, found);
  }
  return [...byPixel.values()].map((group) => {
    const values = group.flatMap(({ value }) => value ?? []);
    const at = group[0]?.at ?? 0;
    return { at, value: values.length === 0 ? null : mean(values) };
  });
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

export function xOf(at: number, { from, until, width }: Frame): number {
  return ((at - from) / Math.max(1, until - from)) * width;
}

export function yOf(value: number, { low, high, height }: Frame): number {
  return height - ((value - low) / Math.max(1e-9, high - low)) * height;
}

/** Return round bounds around values, and what is marked between them. */
export function scaleOf(values: readonly number[], fromZero: boolean): readonly number[] {
  const lowest = fromZero ? 0 : Math.min(...values);
  const highest = Math.max(...values);
  if (values.length === 0 || !Number.isFinite(lowest + highest)) return [0, 1];
  const rough = Math.max(highest - lowest, 1e-9) / 3;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * size).find((each) => each >= rough) ?? size;
  const first = Math.floor(lowest / step);
  const last = Math.max(first + 1, Math.ceil(highest / step));
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

const MARKS_MIN = [1, 2, 5, 10, 30, 60, 120, 180, 360, 720];

/** Return full minutes or hours of the local day within the frame, at most about `n`. */
export function marksOf(from: number, until: number, n: number): readonly number[] {
  const every_min = MARKS_MIN.find((minutes) => (until - from) / 60 / minutes <= n) ?? 1440;
  const midnight = new Date(from * 1000).setHours(0, 0, 0, 0) / 1000;
  const first = Math.ceil((from - midnight) / (every_min * 60));
  const last = Math.floor((until - midnight) / (every_min * 60));
  return Array.from(
    { length: Math.max(0, last - first + 1) },
    (_, i) => midnight + (first + i) * every_min * 60,
  );
}

/** Return the stretches of time in which something was so. */
export function stretchesOf(
  flags: readonly { readonly at: number; readonly isSo: boolean }[],
  every_s: number,
): readonly (readonly [number, number])[] {
  const found: [number, number][] = [];
  for (const { at, isSo } of flags) {
    if (!isSo) continue;
    const last = found.at(-1);
    if (last !== undefined && at - last[1] <= GAP * every_s) last[1] = at;
    else found.push([at - every_s, at]);
  }
  return found;
}

/** Return the index of the sample nearest to a time; samples are in order. */
export function nearest(samples: readonly { readonly at: number }[], at: number): number {
  let best = 0;
  samples.forEach((sample, i) => {
    if (Math.abs(sample.at - at) < Math.abs((samples[best]?.at ?? 0) - at)) best = i;
  });
  return best;
}
