/** Which experts a token had: in one layer as numbers, in all as a picture. */
import type { VNode } from "preact";
import type { TokenTrace } from "../api/contract";
import { count } from "../format";
import { text } from "../preferences";
import { chosenIn, expertCells } from "./anatomy";

const TALLEST_PX = 160;
const CELL_PX = 8;

/** A column for each layer, a row for each expert. */
export function Experts({ trace }: { readonly trace: TokenTrace }): VNode | null {
  const t = text.value.token;
  const { experts, n_experts } = trace;
  const n_layers = experts?.[0]?.length ?? 0;
  if (n_experts === null || n_layers === 0) return null;
  const cell = Math.min(CELL_PX, TALLEST_PX / n_experts);
  const height = n_experts * cell;
  return (
    <div class="experts">
      <h3>{t.experts}</h3>
      <p class="quiet small-text">{t.expertsAre(count(n_experts))}</p>
      <svg
        viewBox={`0 0 ${n_layers} ${height}`}
        height={height}
        preserveAspectRatio="none"
        role="img"
        aria-label={t.expertsPicture(n_layers, n_experts)}
      >
        <path d={expertCells(trace, 1, cell)} />
      </svg>
    </div>
  );
}

/** Ranks that agree, as all should, are named once. */
export function ChosenExperts(props: { trace: TokenTrace; layer: number }): VNode | null {
  const t = text.value.token;
  const found = chosenIn(props.trace, props.layer);
  if (found.length === 0) return null;
  return (
    <ul class="chosen-experts">
      {found.map(({ ranks, experts }) => (
        <li key={ranks[0]}>
          {t.chosenExperts(experts.join(", "))}{" "}
          <span class="quiet">
            {found.length === 1 ? t.onEveryRank : text.value.cluster.rank(ranks)}
          </span>
        </li>
      ))}
    </ul>
  );
}
