/** The loss of a tuning: of the steps, and of held-out examples. */
import type { VNode } from "preact";
import { useRef } from "preact/hooks";
import type { LossCurve } from "../api/contract";
import { count, figure } from "../format";
import { Axes } from "../log/Axes";
import { type Frame, linePath, type Sample, scaleOf } from "../log/chart";
import { useWidth } from "../parts/size";
import { text } from "../preferences";

const HEIGHT_PX = 90;
const FOOT_PX = 20;
const SIDE_PX = 34;
const ENOUGH_POINTS = 2;

/** A chart of what has been learned so far; none before there is a line to draw. */
export function LossChart({
  name,
  losses,
}: {
  readonly name: string;
  readonly losses: LossCurve;
}): VNode | null {
  return losses.learned.length < ENOUGH_POINTS ? null : <Drawn name={name} losses={losses} />;
}

function Drawn({ name, losses }: { readonly name: string; readonly losses: LossCurve }): VNode {
  const t = text.value.models;
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const lines = [
    { name: t.loss, samples: samplesOf(losses.learned) },
    { name: t.heldOutLoss, samples: samplesOf(losses.held_out) },
  ].filter(({ samples }) => samples.length > 0);
  const all = lines.flatMap(({ samples }) => samples);
  const marks = scaleOf(
    all.map(({ value }) => value),
    false,
  );
  const frame: Frame = {
    from: Math.min(...all.map(({ at }) => at)),
    until: Math.max(...all.map(({ at }) => at)),
    low: marks[0] ?? 0,
    high: marks.at(-1) ?? 1,
    width: Math.max(1, width - 2 * SIDE_PX),
    height: HEIGHT_PX,
  };
  const said = lines.map((line) => `${line.name} ${figure(line.samples.at(-1)?.value ?? null)}`);
  return (
    <figure class="chart">
      <div ref={box}>
        {width > 0 && (
          <svg
            viewBox={`${-SIDE_PX} -8 ${width} ${HEIGHT_PX + FOOT_PX + 8}`}
            height={HEIGHT_PX + FOOT_PX + 8}
            role="img"
            aria-label={`${name}: ${said.join(", ")}`}
          >
            <Axes frame={frame} marks={marks} below={[frame.from, frame.until]} say={count} />
            {lines.map(({ name, samples }, i) => (
              <path key={name} class={`line series-${i}`} d={linePath(samples, frame, Infinity)} />
            ))}
          </svg>
        )}
      </div>
      <figcaption class="legend">
        {lines.map(({ name, samples }, i) => (
          <span key={name} class={`series-${i}`}>
            <i class="swatch" />
            {name} <b>{figure(samples.at(-1)?.value ?? null)}</b>
          </span>
        ))}
      </figcaption>
    </figure>
  );
}

function samplesOf(points: LossCurve["learned"]): readonly (Sample & { readonly value: number })[] {
  return points.map(([at, value]) => ({ at, value }));
}
