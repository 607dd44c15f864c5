/** The models on disk, and the work on them. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { arrivedModels } from "../api/arrived";
import { ApiError, post, postJson } from "../api/client";
import type { ModelList, ModelOnDisk, QualityCard, Work } from "../api/contract";
import { Fact } from "../cluster/NodeCard";
import { bytes, count, figure, large, long, percent } from "../format";
import { Meter } from "../parts/Meter";
import { usePolled } from "../parts/polled";
import { Refusal } from "../parts/Refusal";
import { text } from "../preferences";

const BUSY_S = 1;
const QUIET_S = 10;

export function ModelsView(): VNode {
  const t = text.value.models;
  const list = usePolled<ModelList>("page/models", arrivedModels, (found) =>
    found?.work.some(({ state }) => state === "running") ? BUSY_S : QUIET_S,
  );
  const { value: found } = list;
  return (
    <div class="stack">
      <h1>{t.title}</h1>
      <Pull onPulled={list.again} />
      <Refusal problem={list.problem} />
      {found !== null && found.work.length > 0 && (
        <WorkList work={found.work} onStopped={list.again} />
      )}
      <h2 id="disk-title">{t.onDisk}</h2>
      {found?.models.length === 0 && <p class="quiet">{t.none}</p>}
      <ul class="models" aria-labelledby="disk-title">
        {found?.models.map((model) => (
          <ModelCard key={model.path} model={model} />
        ))}
      </ul>
    </div>
  );
}

function Pull({ onPulled }: { readonly onPulled: () => void }): VNode {
  const t = text.value.models;
  const name = useSignal("");
  const problem = useSignal<ApiError | null>(null);
  const isAsking = useSignal(false);
  const pull = async (event: Event): Promise<void> => {
    event.preventDefault();
    isAsking.value = true;
    problem.value = null;
    try {
      await postJson<Work>("page/models/pull", { name: name.value.trim() });
      name.value = "";
      onPulled();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      problem.value = error;
    } finally {
      isAsking.value = false;
    }
  };
  return (
    <form class="card stack" onSubmit={(event) => void pull(event)}>
      <div class="pull">
        <label class="field">
          <span>
            {t.pullTitle}: {t.pullHint}
          </span>
          <input
            value={name.value}
            autoCapitalize="off"
            spellcheck={false}
            onInput={(event) => (name.value = event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="main" disabled={isAsking.value || name.value.trim() === ""}>
          {t.pull}
        </button>
      </div>
      <Refusal problem={problem.value} />
    </form>
  );
}

function WorkList({ work, onStopped }: { work: readonly Work[]; onStopped: () => void }): VNode {
  const t = text.value.models;
  return (
    <section class="card" aria-labelledby="work-title">
      <h2 id="work-title">{t.work}</h2>
      <ul class="work">
        {work.map((each) => (
          <WorkItem key={each.id} work={each} onStopped={onStopped} />
        ))}
      </ul>
    </section>
  );
}

function WorkItem({ work, onStopped }: { work: Work; onStopped: () => void }): VNode {
  const t = text.value.models;
  const problem = useSignal<ApiError | null>(null);
  const isRunning = work.state === "running";
  const stop = async (): Promise<void> => {
    try {
      await post(`page/work/${encodeURIComponent(work.id)}/stop`);
      onStopped();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      problem.value = error;
    }
  };
  return (
    <li>
      <div class="row spread">
        <span>
          <span class="tag">{t.kind[work.kind]}</span> <b>{work.name}</b>{" "}
          <span class={work.state === "failed" ? "bad" : "quiet"}>{t.phase[work.state]}</span>
        </span>
        {isRunning && work.can_stop && (
          <button
            type="button"
            class="small"
            aria-label={t.stopOne(work.name)}
            onClick={() => void stop()}
          >
            {t.stop}
          </button>
        )}
      </div>
      {isRunning && (
        <Meter
          parts={[{ share: work.fraction ?? 0, kind: "work" }]}
          label={`${work.name}: ${percent(work.fraction)}`}
        />
      )}
      <p class="quiet small-text">{sayProgress(work)}</p>
      {work.note !== null && <p class="small-text">{work.note}</p>}
      {work.error !== null && <Refusal problem={new ApiError(0, work.error, work.cure)} />}
      <Refusal problem={problem.value} />
    </li>
  );
}

function sayProgress(work: Work): string {
  const t = text.value.models;
  const said: string[] = [];
  if (work.total_bytes !== null) said.push(t.of(bytes(work.done_bytes), bytes(work.total_bytes)));
  else if (work.done_bytes !== null) said.push(bytes(work.done_bytes));
  if (work.state === "running") {
    if (work.per_s !== null) said.push(t.perS(bytes(work.per_s)));
    if (work.rest_s !== null) said.push(t.rest(long(work.rest_s)));
  }
  return said.join(" · ");
}

function ModelCard({ model }: { readonly model: ModelOnDisk }): VNode {
  const t = text.value.models;
  return (
    <li class="card">
      <h3>
        {model.name}
        {model.is_served && <span class="tag">{t.served}</span>}
        {model.is_unfinished && <span class="tag wait">{t.unfinished}</span>}
      </h3>
      <dl class="facts">
        <Fact name={t.size} value={model.size_bytes} show={bytes} />
        <Fact name={t.type} value={model.file_type} show={(type) => type} />
        <Fact name={t.parameters} value={model.n_params} show={large} />
        <Fact name={t.trained} value={model.n_ctx_train} show={count} />
      </dl>
      <Quality card={model.card} />
      <p class="quiet mono path">{model.path}</p>
    </li>
  );
}

function Quality({ card }: { readonly card: QualityCard | null }): VNode {
  const t = text.value.models;
  if (card === null) {
    return (
      <p class="quiet small-text">
        {t.card}: {t.noCard} ({t.noCardHint})
      </p>
    );
  }
  return (
    <div class="quality">
      <dl class="facts">
        <Fact name={t.bits} value={card.bits_per_weight} show={figure} />
        <Fact name={t.kl} value={card.kl} show={figure} />
        <Fact name={t.same} value={card.same_top_token} show={percent} />
      </dl>
    </div>
  );
}
