/** Looks at the trace of a token: its parts, its layers, and what lies in a span of it. Pure. */
import type { TokenInterval, TokenPart, TokenTrace } from "../api/contract";

/** In the order in which they are drawn: work, its encoding, then what is lost. */
export const PARTS: readonly TokenPart[] = [
  "attention",
  "feed_forward",
  "head",
  "encode",
  "wire",
  "wait",
  "between",
];

export const COMPUTING: readonly TokenPart[] = ["attention", "feed_forward", "head"];

export type PartTimes = ReadonlyMap<TokenPart, number>;

/** Return the seconds of each part that occurs, in the order of PARTS. */
export function timesOf(intervals: readonly TokenInterval[]): PartTimes {
  const sums = new Map<TokenPart, number>();
  for (const [part, begun, ended] of intervals)
    sums.set(part, (sums.get(part) ?? 0) + ended - begun);
  return new Map(
    PARTS.flatMap((part): [TokenPart, number][] => {
      const seconds = sums.get(part);
      return seconds === undefined ? [] : [[part, seconds]];
    }),
  );
}

/** Return the same, mean of the ranks. */
export function meanTimes(trace: TokenTrace): PartTimes {
  const all = timesOf(trace.ranks.flatMap(({ intervals }) => intervals));
  return new Map(
    [...all].map(([part, seconds]) => [part, seconds / Math.max(1, trace.ranks.length)]),
  );
}

export function total(times: PartTimes, parts: readonly TokenPart[] = PARTS): number {
  return parts.reduce((sum, part) => sum + (times.get(part) ?? 0), 0);
}

export interface Layer {
  readonly layer: number;
  /** Mean of the ranks. */
  readonly times: PartTimes;
}

export function layersOf(trace: TokenTrace): readonly Layer[] {
  const byLayer = new Map<number, TokenInterval[]>();
  for (const interval of trace.ranks.flatMap(({ intervals }) => intervals)) {
    const layer = interval[3];
    if (layer === null) continue;
    const found = byLayer.get(layer) ?? [];
    found.push(interval);
    byLayer.set(layer, found);
  }
  const n_ranks = Math.max(1, trace.ranks.length);
  return [...byLayer]
    .sort(([a], [b]) => a - b)
    .map(([layer, intervals]) => ({
      layer,
      times: new Map([...timesOf(intervals)].map(([part, seconds]) => [part, seconds / n_ranks])),
    }));
}

/** A rank's experts in a layer, and which ranks have the same. */
export interface Chosen {
  readonly ranks: readonly number[];
  readonly experts: readonly number[];
}

/** Return the experts of a layer, once for ranks that agree; none if the layer has none. */
export function chosenIn({ experts }: TokenTrace, layer: number): readonly Chosen[] {
  const found = new Map<string, { ranks: number[]; experts: readonly number[] }>();
  (experts ?? []).forEach((layers, rank) => {
    const own = layers[layer] ?? [];
    if (own.length === 0) return;
    const known = found.get(own.join(" "));
    if (known === undefined) found.set(own.join(" "), { ranks: [rank], experts: own });
    else known.ranks.push(rank);
  });
  return [...found.values()];
}

/** Return one path of cells: a column for each layer, a cell for each expert that rank 0 has there. */
export function expertCells({ experts }: TokenTrace, width: number, height: number): string {
  return (experts?.[0] ?? [])
    .flatMap((own, layer) =>
      own.map((expert) => `M${layer * width} ${expert * height}h${width}v${height}h${-width}z`),
    )
    .join("");
}

export interface Span {
  readonly begun: number;
  readonly ended: number;
}

/** Return when a layer begins on the first rank and ends on the last; of null, the whole token. */
export function spanOf(trace: TokenTrace, layer: number | null): Span {
  const intervals = trace.ranks
    .flatMap(({ intervals: own }) => own)
    .filter((interval) => layer === null || interval[3] === layer);
  if (intervals.length === 0) return { begun: 0, ended: trace.token_s };
  return {
    begun: Math.min(...intervals.map(([, begun]) => begun)),
    ended: Math.max(...intervals.map(([, , ended]) => ended)),
  };
}

/** A part's bar, in pixels. */
export interface Bar {
  readonly part: TokenPart;
  readonly x: number;
  readonly width: number;
}

const LEAST_PX = 0.25; // thinner ones are not seen

/** Return the bars of one rank that lie in a span, drawn `width` pixels wide. */
export function barsOf(
  intervals: readonly TokenInterval[],
  span: Span,
  width: number,
): readonly Bar[] {
  const px_per_s = width / Math.max(1e-9, span.ended - span.begun);
  return intervals.flatMap(([part, begun, ended]): Bar[] => {
    const from = (Math.max(begun, span.begun) - span.begun) * px_per_s;
    const until = (Math.min(ended, span.ended) - span.begun) * px_per_s;
    return until - from < LEAST_PX ? [] : [{ part, x: from, width: until - from }];
  });
}

/** Return one path for all bars of a part, so that a token of thousands of intervals is few elements. */
export function pathOf(bars: readonly Bar[], part: TokenPart, top: number, height: number): string {
  return bars
    .filter((bar) => bar.part === part)
    .map(
      ({ x, width }) =>
        `M${x.toFixed(2)} ${top}h${width.toFixed(2)}v${height}h${(-width).toFixed(2)}z`,
    )
    .join("");
}
