/** What the server does now: figures, queue, requests, and each token's time. */
import type { VNode } from "preact";
import type { KeyQueue, Stats } from "../api/contract";
import { state } from "../api/feed";
import { count, figure, percent } from "../format";
import { Figure } from "../parts/Figure";
import { Scrolled } from "../parts/Scrolled";
import { text } from "../preferences";
import { keyName } from "./key_name";
import { Requests } from "./Requests";
import { StripPanel } from "./StripPanel";

export function NowView(): VNode {
  const t = text.value;
  const now = state.value;
  return (
    <div class="stack">
      <h1>{t.now.title}</h1>
      {now === null ? (
        <p class="quiet">{t.shell.connecting}</p>
      ) : (
        <>
          <NowFigures stats={now.stats} />
          <StripPanel />
          <div class="side-by-side">
            <Requests requests={now.requests} />
            <Queue keys={now.keys} />
          </div>
        </>
      )}
    </div>
  );
}

function NowFigures({ stats }: { readonly stats: Stats }): VNode {
  const t = text.value.now;
  const kv = stats.kv_total === null ? "" : t.kvOf(count(stats.kv_used), count(stats.kv_total));
  return (
    <div class="figures-row">
      <Figure label={t.generation} value={figure(stats.generated_per_s)} unit={t.perS} />
      <Figure label={t.prompt} value={figure(stats.prompt_per_s)} unit={t.perS} />
      <Figure label={t.running} value={count(stats.running)} />
      <Figure label={t.waiting} value={count(stats.waiting)} />
      <Figure
        label={kv === "" ? t.kv : `${t.kv}: ${kv}`}
        value={percent(ratio(stats.kv_used, stats.kv_total))}
      />
      <Figure
        label={`${t.cache}: ${t.hits}`}
        value={percent(ratio(stats.cache_hits, stats.cache_queries))}
      />
      {!!stats.drafted && (
        <Figure
          label={`${t.drafts}: ${t.accepted}`}
          value={percent(ratio(stats.accepted, stats.drafted))}
        />
      )}
    </div>
  );
}

function ratio(part: number | null, whole: number | null): number | null {
  return part === null || whole === null || whole === 0 ? null : part / whole;
}

function Queue({ keys }: { readonly keys: readonly KeyQueue[] }): VNode {
  const t = text.value.now;
  return (
    <section class="card" aria-labelledby="queue-title">
      <h2 id="queue-title">{t.queue}</h2>
      {keys.length === 0 ? <p class="quiet">{t.empty}</p> : <QueueTable keys={keys} />}
    </section>
  );
}

function QueueTable({ keys }: { readonly keys: readonly KeyQueue[] }): VNode {
  const t = text.value.now;
  return (
    <Scrolled label={t.queue}>
      <table>
        <thead>
          <tr>
            <th scope="col">{t.key}</th>
            <th scope="col" class="number">
              {t.running}
            </th>
            <th scope="col" class="number">
              {t.waiting}
            </th>
            <th scope="col" class="number">
              {t.weight}
            </th>
            <th scope="col" class="number">
              {t.priority}
            </th>
          </tr>
        </thead>
        <tbody>
          {keys.map((key) => (
            <tr key={key.name}>
              <th scope="row">{keyName(key.name)}</th>
              <td class="number">{count(key.running)}</td>
              <td class="number">{count(key.waiting)}</td>
              <td class="number">{figure(key.weight)}</td>
              <td class="number">{count(key.priority)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scrolled>
  );
}
