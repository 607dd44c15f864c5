/** Begins to tune a model: with a file of examples, which is read here. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { ApiError, post } from "../api/client";
import type { ModelOnDisk } from "../api/contract";
import { useAsking } from "../parts/asking";
import { Refusal } from "../parts/Refusal";
import { text } from "../preferences";

const USUAL_EPOCHS = 3;

export function TuneForm({ model }: { readonly model: ModelOnDisk }): VNode {
  const t = text.value.models;
  const examples = useSignal<File | null>(null);
  const epochs = useSignal(String(USUAL_EPOCHS));
  const name = useSignal(nameOf(model.path));
  const asking = useAsking();
  const send = (event: Event): Promise<void> => {
    event.preventDefault();
    return asking.ask(async () =>
      post("page/models/tune", {
        path: model.path,
        name: name.value.trim(),
        epochs: Number(epochs.value),
        examples: await read(examples.value),
      }),
    );
  };
  return (
    <form onSubmit={(event) => void send(event)}>
      <div class="pull">
        <label class="field">
          <span>{t.examplesFile}</span>
          <input
            type="file"
            required
            accept=".jsonl,.json,.txt"
            onChange={(event) => (examples.value = event.currentTarget.files?.[0] ?? null)}
          />
        </label>
        <label class="field">
          <span>{t.epochs}</span>
          <input
            type="number"
            required
            min={0.01}
            max={1000}
            step="any"
            value={epochs.value}
            onInput={(event) => (epochs.value = event.currentTarget.value)}
          />
        </label>
        <label class="field">
          <span>{t.tunedName}</span>
          <input
            required
            autoCapitalize="off"
            spellcheck={false}
            value={name.value}
            onInput={(event) => (name.value = event.currentTarget.value)}
          />
        </label>
        <button type="submit" disabled={asking.isAsking.value}>
          {t.tune}
        </button>
      </div>
      <Refusal problem={asking.problem.value} />
    </form>
  );
}

/** Return what is in a file; raises ApiError if it has changed since it was chosen. */
async function read(file: File | null): Promise<string> {
  const t = text.value.models;
  try {
    return (await file?.text()) ?? "";
  } catch {
    throw new ApiError(0, t.unreadable, t.chooseAgain);
  }
}

/** Return a name for what is made of a file. */
function nameOf(path: string): string {
  const file = path.split("/").at(-1) ?? "";
  return `${file.replace(/\.gguf$/, "").replace(/[^A-Za-z0-9._-]/g, "-")}-tuned`;
}
