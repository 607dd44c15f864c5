/** What stands at a chart's edges: its values on the left, and what they are of below. */
import type { VNode } from "preact";
import { figure } from "../format";
import { type Frame, xOf, yOf } from "./chart";

interface AxesProps {
  readonly frame: Frame;
  readonly marks: readonly number[];
  /** Where something is written below, and what. */
  readonly below: readonly number[];
  readonly say: (at: number) => string;
}

export function Axes({ frame, marks, below, say }: AxesProps): VNode {
  return (
    <g aria-hidden="true">
      {marks.map((mark) => (
        <g key={mark} transform={`translate(0 ${yOf(mark, frame)})`}>
          <line class="grid" x2={frame.width} />
          <text x={-6} y={4} text-anchor="end">
            {figure(mark)}
          </text>
        </g>
      ))}
      {below.map((at) => (
        <text key={at} x={xOf(at, frame)} y={frame.height + 15} text-anchor="middle">
          {say(at)}
        </text>
      ))}
    </g>
  );
}
