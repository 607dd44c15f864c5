/**
 * Lays steps out on a strip of time: for every rank, which bars lie where. Pure.
 * Steps that are wide enough are drawn one by one; of shorter ones, columns show how their time divides.
 */
import type { Step } from "../api/contract";

export type BarKind = "compute" | "sync" | "prompt";

/** In pixels from the left, and in parts of the lane's height from its top. */
export interface Bar {
  readonly kind: BarKind;
  readonly x: number;
  readonly width: number;
  readonly top: number;
  readonly height: number;
}

export interface Window {
  readonly from_s: number;
  readonly until_s: number;
  readonly width_px: number;
}

export interface Strip {
  /** Whether each step is drawn by itself. */
  readonly isApart: boolean;
  /** One for each rank. */
  readonly lanes: readonly (readonly Bar[])[];
}

const NARROWEST_STEP_PX = 5;
const COLUMN_PX = 4;
const PROMPT_MARK = 0.14; // of the lane's height, at its top

export function stripOf(steps: readonly Step[], n_ranks: number, window: Window): Strip {
  const px_per_s = window.width_px / (window.until_s - window.from_s);
  const isApart = steps.length === 0 || meanLength(steps) * px_per_s >= NARROWEST_STEP_PX;
  const draw = isApart ? barsApart : columns;
  return {
    isApart,
    lanes: Array.from({ length: n_ranks }, (_, rank) => draw(steps, rank, window, px_per_s)),
  };
}

/** Return the seconds that a step takes, mean of these. */
function meanLength(steps: readonly Step[]): number {
  return steps.reduce((sum, step) => sum + lengthOf(step), 0) / steps.length;
}

export function lengthOf(step: Step): number {
  return Math.max(0, ...step.ranks.map(([compute_s, sync_s]) => compute_s + sync_s));
}

function barsApart(steps: readonly Step[], rank: number, window: Window, px_per_s: number): Bar[] {
  return steps.flatMap((step) => {
    const [compute_s, sync_s] = step.ranks[rank] ?? [0, 0];
    const begun = (step.at - compute_s - sync_s - window.from_s) * px_per_s;
    const middle = begun + compute_s * px_per_s;
    const end = (step.at - window.from_s) * px_per_s;
    const bars: Bar[] = [
      { kind: "compute", x: begun, width: middle - begun, top: 0, height: 1 },
      {
        kind: "sync",
        x: middle,
        width: Math.max(0, end - middle - gap(end - begun)),
        top: 0,
        height: 1,
      },
    ];
    if (step.n_prompt > 0) {
      bars.push({ kind: "prompt", x: begun, width: end - begun, top: 0, height: PROMPT_MARK });
    }
    return bars.filter(({ width }) => width > 0);
  });
}

/** Return what is left free after a step, so that it is seen where the next begins. */
function gap(width_px: number): number {
  return width_px >= 8 ? 1 : 0;
}

interface Column {
  compute_s: number;
  sync_s: number;
  isPrompt: boolean;
}

/** Columns begin at multiples of their width, so that they move with time and keep their heights. */
function columns(steps: readonly Step[], rank: number, window: Window, px_per_s: number): Bar[] {
  const column_s = COLUMN_PX / px_per_s;
  const found = new Map<number, Column>();
  for (const step of steps) {
    const [compute_s, sync_s] = step.ranks[rank] ?? [0, 0];
    const middle = step.at - sync_s;
    for (const [column, seconds] of spread(middle - compute_s, middle, column_s)) {
      columnAt(found, column).compute_s += seconds;
    }
    for (const [column, seconds] of spread(middle, step.at, column_s)) {
      columnAt(found, column).sync_s += seconds;
    }
    if (step.n_prompt > 0) columnAt(found, Math.floor(middle / column_s)).isPrompt = true;
  }
  return [...found].flatMap(([index, column]) => {
    const x = (index * column_s - window.from_s) * px_per_s;
    const compute = Math.min(1, column.compute_s / column_s);
    const sync = Math.min(1 - compute, column.sync_s / column_s);
    const width = COLUMN_PX - 1;
    const bars: Bar[] = [
      { kind: "compute", x, width, top: 1 - compute, height: compute },
      { kind: "sync", x, width, top: 1 - compute - sync, height: sync },
    ];
    if (column.isPrompt) bars.push({ kind: "prompt", x, width, top: 0, height: PROMPT_MARK });
    return bars.filter(({ height }) => height > 0);
  });
}

function columnAt(columns: Map<number, Column>, index: number): Column {
  const found = columns.get(index) ?? { compute_s: 0, sync_s: 0, isPrompt: false };
  columns.set(index, found);
  return found;
}

/** Return how many seconds of an interval lie in each column. */
function spread(begun_s: number, ended_s: number, column_s: number): [number, number][] {
  const parts: [number, number][] = [];
  for (let column = Math.floor(begun_s / column_s); column * column_s < ended_s; column += 1) {
    const from = Math.max(begun_s, column * column_s);
    const until = Math.min(ended_s, (column + 1) * column_s);
    if (until > from) parts.push([column, until - from]);
  }
  return parts;
}

/** Of one rank, means of a step. */
export interface RankMeans {
  readonly compute_s: number;
  readonly sync_s: number;
  readonly idle_s: number;
  readonly bytes_sent: number;
}

export function meansOf(steps: readonly Step[], n_ranks: number): readonly RankMeans[] {
  const n = Math.max(1, steps.length);
  return Array.from({ length: n_ranks }, (_, rank) => {
    const sums = [0, 0, 0, 0];
    for (const step of steps) {
      step.ranks[rank]?.forEach((value, i) => (sums[i] = (sums[i] ?? 0) + value));
    }
    const [compute_s = 0, sync_s = 0, idle_s = 0, bytes_sent = 0] = sums.map((sum) => sum / n);
    return { compute_s, sync_s, idle_s, bytes_sent };
  });
}

/** Return the step that is computed at a time, if one is. */
export function stepAt(steps: readonly Step[], at_s: number): Step | null {
  return steps.find((step) => step.at >= at_s && step.at - lengthOf(step) <= at_s) ?? null;
}

/** Return round times within the window, about `n`. */
export function ticksOf(window: Window, n: number): readonly number[] {
  const rough_s = (window.until_s - window.from_s) / n;
  const size = 10 ** Math.floor(Math.log10(rough_s));
  const every_s =
    [1, 2, 5, 10].map((factor) => factor * size).find((each) => each >= rough_s) ?? size;
  const first = Math.ceil(window.from_s / every_s);
  const last = Math.floor(window.until_s / every_s);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * every_s);
}
