/** What happened, and the last day in lines. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import type { LogEntry, LogKind } from "../api/contract";
import { log } from "../api/feed";
import { moment } from "../format";
import { Sentence } from "../parts/Sentence";
import { text } from "../preferences";
import { told } from "../text/told";
import { Day } from "./Day";

const KINDS: readonly LogKind[] = ["cluster", "engine", "route", "model"];
const MOST_SHOWN = 300;

export function LogView(): VNode {
  const t = text.value.log;
  return (
    <div class="stack">
      <h1>{t.title}</h1>
      <Day />
      <Entries />
    </div>
  );
}

function Entries(): VNode {
  const t = text.value.log;
  const kind = useSignal<LogKind | null>(null);
  const shown = log.value.filter((entry) => kind.value === null || entry.kind === kind.value);
  return (
    <section class="card" aria-labelledby="entries-title">
      <header class="row spread">
        <h2 id="entries-title">{t.events}</h2>
        <div class="filters" role="group" aria-label={t.show}>
          {[null, ...KINDS].map((each) => (
            <button
              key={each ?? "all"}
              type="button"
              class="small"
              aria-pressed={kind.value === each}
              onClick={() => (kind.value = each)}
            >
              {each === null ? t.all : t.kind[each]}
            </button>
          ))}
        </div>
      </header>
      {shown.length === 0 && <p class="quiet">{t.none}</p>}
      <ol class="entries" aria-live="polite" aria-relevant="additions">
        {shown
          .slice(-MOST_SHOWN)
          .reverse()
          .map((entry) => (
            <Entry key={entry.n} entry={entry} />
          ))}
      </ol>
    </section>
  );
}

function Entry({ entry }: { readonly entry: LogEntry }): VNode {
  const t = text.value;
  const said = told(entry);
  return (
    <li class={entry.level}>
      <time class="quiet" dateTime={new Date(entry.at * 1000).toISOString()}>
        {moment(entry.at)}
      </time>
      <span class="quiet">{t.log.kind[entry.kind]}</span>
      <span class="text">
        {entry.level !== "info" && <b class="what">{t.log.level[entry.level]}: </b>}
        <Sentence text={said.text} />
        {said.cure !== null && (
          <span class="cure">
            {" "}
            {t.cluster.cure}: <Sentence text={said.cure} />
          </span>
        )}
      </span>
    </li>
  );
}
