/** What can be made of a model on disk: a smaller file, shards for several machines, and a tuned model. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { post } from "../api/client";
import type { ModelOnDisk } from "../api/contract";
import { useAsking } from "../parts/asking";
import { Refusal } from "../parts/Refusal";
import { text } from "../preferences";
import { TuneForm } from "./TuneForm";

const USUAL_BITS = 4.5;
const USUAL_RANKS = 2;

export function Making({ model }: { readonly model: ModelOnDisk }): VNode {
  const t = text.value.models;
  return (
    <details class="making">
      <summary>{t.make}</summary>
      <div class="stack">
        <OneNumber
          label={t.targetBits}
          action={t.makeSmaller}
          usual={USUAL_BITS}
          low={1}
          high={16}
          step="any"
          begin={(bits) => post("page/models/quantize", { path: model.path, target_bpw: bits })}
        />
        <OneNumber
          label={t.machines}
          action={t.cut}
          usual={USUAL_RANKS}
          low={2}
          high={1024}
          step={1}
          begin={(ranks) => post("page/models/cut", { path: model.path, ranks })}
        />
        <TuneForm model={model} />
      </div>
    </details>
  );
}

interface Asked {
  readonly label: string;
  readonly action: string;
  readonly usual: number;
  readonly low: number;
  readonly high: number;
  readonly step: number | "any";
  readonly begin: (value: number) => Promise<unknown>;
}

/** A form of one number and a button. */
function OneNumber({ label, action, usual, low, high, step, begin }: Asked): VNode {
  const value = useSignal(String(usual));
  const asking = useAsking();
  const send = (event: Event): Promise<void> => {
    event.preventDefault();
    return asking.ask(() => begin(Number(value.value)));
  };
  return (
    <form onSubmit={(event) => void send(event)}>
      <div class="pull">
        <label class="field">
          <span>{label}</span>
          <input
            type="number"
            required
            min={low}
            max={high}
            step={step}
            value={value.value}
            onInput={(event) => (value.value = event.currentTarget.value)}
          />
        </label>
        <button type="submit" disabled={asking.isAsking.value}>
          {action}
        </button>
      </div>
      <Refusal problem={asking.problem.value} />
    </form>
  );
}
