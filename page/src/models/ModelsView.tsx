/** The models on disk, and the work on them. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect } from "preact/hooks";
import { arrivedModels } from "../api/arrived";
import { postJson } from "../api/client";
import type { ModelList, ModelOnDisk, QualityCard, TuningCard, Work } from "../api/contract";
import { state } from "../api/feed";
import { Fact } from "../cluster/NodeCard";
import { bytes, count, figure, large, percent } from "../format";
import { useAsking } from "../parts/asking";
import { usePolled } from "../parts/polled";
import { Refusal } from "../parts/Refusal";
import { text } from "../preferences";
import { Making } from "./Making";
import { WorkList } from "./WorkList";

const QUIET_S = 10;

export function ModelsView(): VNode {
  const t = text.value.models;
  const list = usePolled<ModelList>("page/models", arrivedModels, () => QUIET_S);
  const { value: found } = list;
  const work = state.value?.work ?? [];
  const running = work.filter((each) => each.state === "running").map(({ id }) => id);
  useEffect(list.again, [running.join()]); // what has ended may have made a model
  return (
    <div class="stack">
      <h1>{t.title}</h1>
      <Pull />
      <Refusal problem={list.problem} />
      <WorkList work={work} />
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

function Pull(): VNode {
  const t = text.value.models;
  const name = useSignal("");
  const asking = useAsking();
  const pull = (event: Event): Promise<void> => {
    event.preventDefault();
    return asking.ask(async () => {
      await postJson<Work>("page/models/pull", { name: name.value.trim() });
      name.value = "";
    });
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
        <button
          type="submit"
          class="main"
          disabled={asking.isAsking.value || name.value.trim() === ""}
        >
          {t.pull}
        </button>
      </div>
      <Refusal problem={asking.problem.value} />
    </form>
  );
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
      {!model.is_unfinished && <Quality card={model.card} />}
      {model.tuning !== null && <Tuning card={model.tuning} />}
      <p class="quiet mono path">{model.path}</p>
      {!model.is_unfinished && <Making model={model} />}
    </li>
  );
}

function Tuning({ card }: { readonly card: TuningCard }): VNode {
  const t = text.value.models;
  return (
    <dl class="facts">
      <Fact name={t.tunedFrom} value={card.base || null} show={(base) => base} />
      <Fact name={t.examples} value={card.examples} show={count} />
      <Fact name={t.steps} value={card.steps} show={count} />
      <Fact name={t.loss} value={card.loss} show={figure} />
      <Fact name={t.heldOutLoss} value={card.eval_loss} show={figure} />
    </dl>
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
