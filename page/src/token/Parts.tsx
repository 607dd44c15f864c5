/** The parts of a token: how long each took, and what it is. */
import type { VNode } from "preact";
import type { TokenPart, TokenTrace } from "../api/contract";
import { machine, percent, short } from "../format";
import { Scrolled } from "../parts/Scrolled";
import { text } from "../preferences";
import { taught } from "../text/lessons";
import { type PartTimes, timesOf, total } from "./anatomy";
import { chosenPart, pointedPart } from "./tracing";

export function Parts({ times }: { readonly times: PartTimes }): VNode {
  const all = total(times);
  return (
    <>
      <div class="parts">
        {[...times].map(([part, seconds]) => (
          <button
            key={part}
            type="button"
            class={`part-${part}`}
            aria-pressed={chosenPart.value === part}
            onPointerEnter={() => (pointedPart.value = part)}
            onPointerLeave={() => (pointedPart.value = null)}
            onClick={() => (chosenPart.value = chosenPart.value === part ? null : part)}
          >
            <i class="swatch" />
            {taught.value.parts[part].name}
            <span class="quiet">
              {short(seconds)} · {percent(seconds / all)}
            </span>
          </button>
        ))}
      </div>
      <Explanation times={times} />
    </>
  );
}

function Explanation({ times }: { readonly times: PartTimes }): VNode {
  const t = text.value.token;
  const part: TokenPart | null = pointedPart.value ?? chosenPart.value;
  if (part === null) return <p class="explained quiet">{t.explain}</p>;
  const { name, text: explained } = taught.value.parts[part];
  return (
    <div class={`explained part-${part}`} aria-live="polite">
      <p>
        <b>{name}</b>{" "}
        <span class="quiet">
          {short(times.get(part) ?? 0)}, {t.ofToken(percent((times.get(part) ?? 0) / total(times)))}
        </span>
      </p>
      <p>{explained}</p>
    </div>
  );
}

/** The same for each rank: whose wait is long, and whose is short. */
export function PartsTable({ trace }: { readonly trace: TokenTrace }): VNode {
  const t = text.value.token;
  const ranks = trace.ranks.map(({ node, intervals }) => ({ node, times: timesOf(intervals) }));
  const parts = [...new Set(ranks.flatMap(({ times }) => [...times.keys()]))];
  return (
    <Scrolled label={t.where}>
      <table>
        <thead>
          <tr>
            <th scope="col">{t.rank}</th>
            {parts.map((part) => (
              <th key={part} scope="col" class="number">
                {taught.value.parts[part].name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {ranks.map(({ node, times }, rank) => (
            <tr key={rank}>
              <th scope="row">{machine(node)}</th>
              {parts.map((part) => (
                <td key={part} class="number">
                  {short(times.get(part) ?? 0)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scrolled>
  );
}
