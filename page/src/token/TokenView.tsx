/** The anatomy of a token: one real one, its parts, its layers, and how the machine works. */
import type { VNode } from "preact";
import { useEffect } from "preact/hooks";
import type { TokenTrace } from "../api/contract";
import { bytes, count, short } from "../format";
import { Figure } from "../parts/Figure";
import { Refusal } from "../parts/Refusal";
import { text } from "../preferences";
import { layersOf, meanTimes, spanOf } from "./anatomy";
import { Columns } from "./Columns";
import { ChosenExperts, Experts } from "./Experts";
import { Lanes } from "./Lanes";
import { Lessons } from "./Lessons";
import { Parts, PartsTable } from "./Parts";
import { chosenLayer, isTracing, problem, takeTrace, trace } from "./tracing";

export function TokenView(): VNode {
  const t = text.value.token;
  useEffect(() => {
    if (trace.value === null) void takeTrace();
  }, []);
  const taken = trace.value;
  return (
    <div class="stack">
      <header class="row spread">
        <div class="lead">
          <h1>{t.title}</h1>
          <p class="quiet">{t.intro}</p>
        </div>
        <button
          type="button"
          class="main"
          disabled={isTracing.value}
          onClick={() => void takeTrace()}
        >
          {isTracing.value ? t.taking : taken === null ? t.take : t.again}
        </button>
      </header>
      <Refusal problem={problem.value} />
      {taken !== null && <Anatomy trace={taken} />}
      <Lessons trace={taken} />
    </div>
  );
}

function Anatomy({ trace: taken }: { readonly trace: TokenTrace }): VNode {
  const t = text.value.token;
  const layers = layersOf(taken);
  return (
    <>
      <div class="figures-row">
        <Figure label={t.time} value={short(taken.token_s)} />
        <Figure label={t.layers} value={count(taken.n_layers)} />
        <Figure label={t.ranks} value={count(taken.n_ranks)} />
        <Figure label={t.sums} value={count(taken.sums)} />
        <Figure label={t.sent} value={taken.bytes_sent === null ? "–" : bytes(taken.bytes_sent)} />
      </div>
      <section class="card stack" aria-labelledby="where-title">
        <h2 id="where-title">{t.where}</h2>
        <Lanes trace={taken} span={spanOf(taken, null)} label={t.whole} />
        <Parts times={meanTimes(taken)} />
        {taken.n_ranks > 1 && <PartsTable trace={taken} />}
        {taken.n_ranks === 1 && <p class="quiet">{t.noParts}</p>}
      </section>
      {layers.length > 0 && (
        <section class="card stack" aria-labelledby="layers-title">
          <div>
            <h2 id="layers-title">{t.byLayer}</h2>
            <p class="quiet small-text">{t.byLayerIs}</p>
          </div>
          <Columns layers={layers} />
          <Experts trace={taken} />
          <Zoom trace={taken} known={layers.map(({ layer }) => layer)} />
        </section>
      )}
    </>
  );
}

function Zoom({ trace: taken, known }: { trace: TokenTrace; known: readonly number[] }): VNode {
  const t = text.value.token;
  const index = Math.max(
    0,
    known.indexOf(chosenLayer.value ?? known[Math.floor(known.length / 2)] ?? 0),
  );
  const layer = known[index] ?? 0;
  const span = spanOf(taken, layer);
  return (
    <div class="token-zoom">
      <div class="row spread">
        <h3 aria-live="polite">
          {t.layer(layer)} <span class="quiet">{short(span.ended - span.begun)}</span>
        </h3>
        <span class="row">
          <button
            type="button"
            class="small"
            disabled={index === 0}
            onClick={() => (chosenLayer.value = known[index - 1] ?? null)}
          >
            ← {t.previous}
          </button>
          <button
            type="button"
            class="small"
            disabled={index === known.length - 1}
            onClick={() => (chosenLayer.value = known[index + 1] ?? null)}
          >
            {t.next} →
          </button>
        </span>
      </div>
      <Lanes trace={taken} span={span} label={t.layer(layer)} />
      <ChosenExperts trace={taken} layer={layer} />
    </div>
  );
}
