/** Lines of the last day. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useRef } from "preact/hooks";
import { clock, figure } from "../format";
import { custom } from "../parts/Meter";
import { useWidth } from "../parts/size";
import { text } from "../preferences";
import { Axes } from "./Axes";
import { type Frame, linePath, marksOf, nearest, type Sample, scaleOf, xOf } from "./chart";

const HEIGHT_PX = 150;
const FOOT_PX = 20;
const SIDE_PX = 34;
const MARK_EVERY_PX = 80;
const COLOURS = 8;

export interface Series {
  readonly name: string;
  readonly samples: readonly Sample[];
}

interface ChartProps {
  readonly title: string;
  readonly unit: string;
  readonly series: readonly Series[];
  readonly every_s: number;
  readonly fromZero: boolean;
  /** What is counted. */
  readonly note?: string;
  /** Stretches of time that are marked, and what they mean. */
  readonly bands?: {
    readonly name: string;
    readonly stretches: readonly (readonly [number, number])[];
  };
}

export function Chart(props: ChartProps): VNode {
  const { title, unit, series, bands } = props;
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const pointedAt = useSignal<number | null>(null);
  const values = series.flatMap(({ samples }) => samples.flatMap(({ value }) => value ?? []));
  const marks = scaleOf(values, props.fromZero);
  const times = series[0]?.samples ?? [];
  const frame: Frame = {
    from: times[0]?.at ?? 0,
    until: times.at(-1)?.at ?? 1,
    low: marks[0] ?? 0,
    high: marks.at(-1) ?? 1,
    width: Math.max(1, width - SIDE_PX),
    height: HEIGHT_PX,
  };
  const pointed = pointedAt.value === null ? null : nearest(times, pointedAt.value);
  const point = (event: PointerEvent): void => {
    const x = Math.max(0, event.offsetX - SIDE_PX);
    pointedAt.value = frame.from + (x / frame.width) * (frame.until - frame.from);
  };
  return (
    <figure class="card chart">
      <h3>
        {title} <span class="quiet">{unit}</span>
      </h3>
      {props.note !== undefined && <p class="quiet small-text">{props.note}</p>}
      <div ref={box}>
        {width > 0 && (
          <svg
            viewBox={`${-SIDE_PX} -8 ${width} ${HEIGHT_PX + FOOT_PX + 8}`}
            height={HEIGHT_PX + FOOT_PX + 8}
            role="img"
            aria-label={`${title}: ${sayRange(values, unit)}`}
            onPointerMove={point}
            onPointerLeave={() => (pointedAt.value = null)}
          >
            <Axes
              frame={frame}
              marks={marks}
              below={marksOf(frame.from, frame.until, frame.width / MARK_EVERY_PX)}
              say={clock}
            />
            {bands?.stretches.map(([from, until]) => (
              <rect
                key={from}
                class="band"
                x={xOf(from, frame)}
                width={Math.max(1, xOf(until, frame) - xOf(from, frame))}
                height={HEIGHT_PX}
              />
            ))}
            {series.map(({ name, samples }, i) => (
              <path
                key={name}
                class={`line series-${i % COLOURS}`}
                d={linePath(samples, frame, props.every_s)}
              />
            ))}
            {pointed !== null && <Cursor x={xOf(times[pointed]?.at ?? 0, frame)} />}
          </svg>
        )}
      </div>
      <figcaption class="legend">
        {series.map(({ name, samples }, i) => (
          <span key={name} class={`series-${i % COLOURS}`}>
            <i class="swatch" />
            {name}
            {pointed !== null && <b>{figure(samples[pointed]?.value ?? null)}</b>}
          </span>
        ))}
        {bands !== undefined && bands.stretches.length > 0 && (
          <span>
            <i
              class="swatch"
              style={custom("--swatch", "color-mix(in srgb, var(--wait) 30%, transparent)")}
            />
            {bands.name}
          </span>
        )}
        {pointed !== null && <span>{clock(times[pointed]?.at ?? 0)}</span>}
      </figcaption>
    </figure>
  );
}

function sayRange(values: readonly number[], unit: string): string {
  if (values.length === 0) return "–";
  const bounds = [Math.min(...values), Math.max(...values)].map(
    (value) => `${figure(value)} ${unit}`,
  );
  return text.value.log.between(bounds[0] ?? "", bounds[1] ?? "");
}

function Cursor({ x }: { readonly x: number }): VNode {
  return <line class="cursor" x1={x} x2={x} y2={HEIGHT_PX} />;
}
