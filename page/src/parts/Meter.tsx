import type { CSSProperties, VNode } from "preact";

export type MeterKind = "work" | "kv" | "other" | "warn" | "read";

export interface MeterPart {
  /** 0 to 1. */
  readonly share: number;
  readonly kind: MeterKind;
}

/** A bar that is filled by parts, from the left. */
export function Meter({
  parts,
  label,
}: {
  readonly parts: readonly MeterPart[];
  readonly label: string;
}): VNode {
  return (
    <div class="meter" role="img" aria-label={label}>
      {parts.map(({ share, kind }) => (
        <span key={kind} class={kind} style={custom("--part", Math.min(1, Math.max(0, share)))} />
      ))}
    </div>
  );
}

/** Return a custom property, set through the CSSOM: the page's policy forbids inline styles. */
export function custom(name: `--${string}`, value: string | number): CSSProperties {
  return { [name]: value };
}
