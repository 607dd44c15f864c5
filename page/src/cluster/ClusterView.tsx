/** The machines as they work together. */
import type { VNode } from "preact";
import type { ServerState, State } from "../api/contract";
import { log, state, steps } from "../api/feed";
import { bytes, clock, count, figure, large, long, machine, percent, short } from "../format";
import { lengthOf, meansOf } from "../now/strip";
import { Figure } from "../parts/Figure";
import { Sentence } from "../parts/Sentence";
import { text } from "../preferences";
import { changes } from "./changes";
import { DrawingView } from "./DrawingView";
import { LinkTable } from "./LinkTable";
import { Fact, NodeCard } from "./NodeCard";
import { told, toldText } from "../text/told";
import { problemsOf } from "./problems";

const RECENT_S = 10;
const HAPPENED = 8;

export function ClusterView(): VNode {
  const t = text.value;
  const now = state.value;
  return (
    <div class="stack">
      <h1 class="unseen">{t.cluster.title}</h1>
      {now === null ? (
        <p class="quiet">{t.shell.connecting}</p>
      ) : (
        <>
          <div class="cluster">
            <section class="card" aria-label={t.cluster.title}>
              <TokenFigures state={now} />
              {now.nodes.length === 0 ? (
                <p class="quiet">{t.cluster.nothing}</p>
              ) : (
                <DrawingView state={now} />
              )}
            </section>
            <div class="stack side">
              <Problems state={now} />
              <Happened />
              <ModelFacts server={now.server} />
            </div>
            <div class="stack">
              <h2 id="machines-title">{t.cluster.machines}</h2>
              <ul class="nodes" aria-labelledby="machines-title">
                {now.nodes.map((node) => (
                  <NodeCard key={node.name} node={node} />
                ))}
              </ul>
            </div>
          </div>
          {now.links.length > 0 && <LinkTable links={now.links} />}
        </>
      )}
    </div>
  );
}

/** The last steps that wrote tokens, and how much of them was not computing. */
function TokenFigures({ state: { stats, server } }: { readonly state: State }): VNode {
  const t = text.value.cluster;
  const until_s = steps.serverTime() + 1;
  const recent = steps
    .between(until_s - RECENT_S, until_s)
    .filter(({ n_prompt }) => n_prompt === 0);
  const means = meansOf(recent, server.n_ranks ?? steps.n_ranks);
  const sync_s = means.reduce((sum, rank) => sum + rank.sync_s, 0);
  const all_s = means.reduce((sum, rank) => sum + rank.sync_s + rank.compute_s, 0);
  const token_s = recent.reduce((sum, step) => sum + lengthOf(step), 0) / recent.length;
  return (
    <div class="figures-row">
      <Figure label={t.rate} value={figure(stats.generated_per_s)} />
      <Figure label={t.tokenTime} value={short(token_s)} />
      <Figure label={t.waiting} value={percent(sync_s / all_s)} kind="wait" />
      {stats.joules_per_token !== null && (
        <Figure label={t.tokenJoules} value={`${figure(stats.joules_per_token)} J`} />
      )}
    </div>
  );
}

function Problems({ state: now }: { readonly state: State }): VNode {
  const t = text.value.cluster;
  const problems = problemsOf(now, t, told);
  return (
    <section class="card" aria-labelledby="problems-title">
      <h2 id="problems-title">{t.attention}</h2>
      {problems.length === 0 && <p class="quiet">{t.allWell}</p>}
      <ul class="problems" aria-live="polite">
        {problems.map(({ text: problem, cure }) => (
          <li key={problem}>
            <p>
              <Sentence text={problem} />
            </p>
            {cure !== null && (
              <p class="cure">
                {t.cure}: <Sentence text={cure} />
              </p>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}

/** What was seen of the machines, and what the server says of them and of its engine, the latest first. */
function happenings(): readonly { readonly at: number; readonly what: string }[] {
  const t = text.value.cluster;
  const seen = changes.value.map(({ at, kind, name }) => ({ at, what: t[kind](machine(name)) }));
  const said = log.value
    .filter(({ kind }) => kind === "engine" || kind === "cluster")
    .map((entry) => ({ at: entry.at, what: told(entry).text }));
  return [...seen, ...said].sort((one, other) => other.at - one.at).slice(0, HAPPENED);
}

function Happened(): VNode {
  const t = text.value.cluster;
  const lines = happenings();
  return (
    <section class={lines.length === 0 ? "unseen" : "card"} aria-labelledby="happened-title">
      <h2 id="happened-title">{t.happened}</h2>
      <ul class="happened" aria-live="polite">
        {lines.map(({ at, what }) => (
          <li key={`${at} ${what}`}>
            <span class="quiet">{clock(at, true)}</span> <Sentence text={what} />
          </li>
        ))}
      </ul>
    </section>
  );
}

function ModelFacts({ server }: { readonly server: ServerState }): VNode {
  const t = text.value;
  return (
    <section class="card" aria-labelledby="model-title">
      <h2 id="model-title">{server.model}</h2>
      <dl class="facts">
        <Fact name={t.models.type} value={server.file_type} show={(type) => type} />
        <Fact name={t.models.parameters} value={server.n_params} show={large} />
        <Fact name={t.models.size} value={server.weights_bytes} show={bytes} />
        <Fact name={t.cluster.context} value={server.n_ctx} show={count} />
        <Fact
          name={t.token.ranks}
          value={server.n_ranks}
          show={(n) => ranksText(n, server.transport)}
        />
        <Fact name={t.cluster.threads} value={server.threads} show={threadsText} />
        <Fact name={t.cluster.version} value={server.version} show={(version) => version} />
        <Fact name={t.cluster.upFor} value={server.up_s} show={long} />
      </dl>
    </section>
  );
}

function ranksText(n: number, transport: string | null): string {
  return transport === null ? count(n) : `${count(n)} · ${toldText(transport)}`;
}

/** Of every rank: 4 × 4, or 4 + 2 + 2. */
function threadsText(threads: readonly number[]): string {
  const [first, ...others] = threads;
  const isSame = others.length > 0 && others.every((n) => n === first);
  return isSame ? `${threads.length} × ${first}` : threads.join(" + ");
}
