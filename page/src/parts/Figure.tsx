import type { VNode } from "preact";

interface FigureProps {
  readonly label: string;
  readonly value: string;
  readonly unit?: string;
  readonly kind?: "wait";
}

/** A large number and what it is of. */
export function Figure({ label, value, unit, kind }: FigureProps): VNode {
  return (
    <div class="figure-box">
      <span class="label">{label}</span>
      <span class={`value ${kind ?? ""}`}>
        {value}
        {unit !== undefined && <span class="unit"> {unit}</span>}
      </span>
    </div>
  );
}
