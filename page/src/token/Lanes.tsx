/** A span of a token on a common axis of time, a lane for each rank. */
import type { VNode } from "preact";
import { useRef } from "preact/hooks";
import type { TokenTrace } from "../api/contract";
import { machine, short } from "../format";
import { ticksOf } from "../now/strip";
import { useWidth } from "../parts/size";
import { taught } from "../text/lessons";
import { barsOf, PARTS, pathOf, type Span } from "./anatomy";
import { chosenPart, pointedPart } from "./tracing";

const LANE_PX = 26;
const EVERY_PX = 34;
const AXIS_PX = 22;
const TICK_EVERY_PX = 130;
const LETTER_PX = 7;

interface LanesProps {
  readonly trace: TokenTrace;
  readonly span: Span;
  readonly label: string;
}

export function Lanes({ trace, span, label }: LanesProps): VNode {
  const frame = useRef<HTMLDivElement>(null);
  const width = useWidth(frame);
  const height = trace.ranks.length * EVERY_PX + AXIS_PX;
  const shown = pointedPart.value ?? chosenPart.value;
  return (
    <div class="lanes">
      <div class="names" aria-hidden="true">
        {trace.ranks.map(({ node }, rank) => (
          <span key={rank}>{machine(node)}</span>
        ))}
      </div>
      <div ref={frame}>
        {width > 0 && (
          <svg
            class={shown === null ? "" : "choosing"}
            viewBox={`0 0 ${width} ${height}`}
            height={height}
            role="img"
            aria-label={label}
            onPointerLeave={() => (pointedPart.value = null)}
          >
            {trace.ranks.map((_, rank) => (
              <Lane key={rank} trace={trace} rank={rank} span={span} width={width} />
            ))}
            <Axis span={span} width={width} top={height - AXIS_PX} />
          </svg>
        )}
      </div>
    </div>
  );
}

interface LaneProps {
  readonly trace: TokenTrace;
  readonly rank: number;
  readonly span: Span;
  readonly width: number;
}

function Lane({ trace, rank, span, width }: LaneProps): VNode {
  const bars = barsOf(trace.ranks[rank]?.intervals ?? [], span, width);
  const top = rank * EVERY_PX;
  const shown = pointedPart.value ?? chosenPart.value;
  const names = taught.value.parts;
  return (
    <g>
      <rect class="ground" y={top} width={width} height={LANE_PX} />
      {PARTS.map((part) => (
        <path
          key={part}
          class={`part part-${part}${part === shown ? " chosen" : ""}`}
          d={pathOf(bars, part, top, LANE_PX)}
          onPointerEnter={() => (pointedPart.value = part)}
          onClick={() => (chosenPart.value = part)}
        />
      ))}
      {bars
        .filter(({ part, width: room }) => room > names[part].name.length * LETTER_PX + 12)
        .map(({ part, x, width: room }) => (
          <text
            key={x}
            class={`inside on-${part}`}
            x={x + room / 2}
            y={top + LANE_PX / 2 + 4}
            text-anchor="middle"
          >
            {names[part].name}
          </text>
        ))}
    </g>
  );
}

function Axis({ span, width, top }: { span: Span; width: number; top: number }): VNode {
  const length_s = span.ended - span.begun;
  const ticks = ticksOf(
    { from_s: 0, until_s: length_s, width_px: width },
    Math.max(3, width / TICK_EVERY_PX),
  );
  return (
    <g aria-hidden="true">
      {ticks.map((at_s) => (
        <g key={at_s} transform={`translate(${(width * at_s) / length_s} ${top})`}>
          <line class="axis" y2={5} />
          <text y={17} text-anchor={anchorOf(at_s / length_s)}>
            {short(at_s)}
          </text>
        </g>
      ))}
    </g>
  );
}

/** Keep the text of a tick within the picture. */
function anchorOf(part: number): "start" | "middle" | "end" {
  if (part < 0.03) return "start";
  return part > 0.97 ? "end" : "middle";
}
