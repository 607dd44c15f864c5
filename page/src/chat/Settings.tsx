/** System prompt, sampling and model of a conversation. */
import type { RefObject, VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { text } from "../preferences";
import { SAMPLING, SAMPLING_NAMES, type SamplingName } from "./conversation";
import { chooseModel, configure, current, model, models } from "./session";

/** Close an open box with Escape, and when something else is clicked. */
function useClosing(box: RefObject<HTMLDetailsElement | null>): void {
  useEffect(() => {
    const close = (event: Event): void => {
      const isInside = event.target instanceof Node && box.current?.contains(event.target) === true;
      const isMeant = event instanceof KeyboardEvent ? event.key === "Escape" : !isInside;
      if (box.current?.open === true && isMeant) box.current.open = false;
    };
    document.addEventListener("pointerdown", close);
    document.addEventListener("keydown", close);
    return () => {
      document.removeEventListener("pointerdown", close);
      document.removeEventListener("keydown", close);
    };
  }, [box]);
}

export function Settings(): VNode {
  const box = useRef<HTMLDetailsElement>(null);
  useClosing(box);
  const t = text.value.chat;
  const { system, sampling } = current.value;
  const isChanged = system !== "" || Object.keys(sampling).length > 0;
  return (
    <details class="settings" ref={box}>
      <summary>
        {t.settings}
        {isChanged && <span class="dot" aria-hidden="true" />}
      </summary>
      <div class="settings-body">
        {models.value.length > 1 && (
          <label class="field">
            <span>{t.modelChoice}</span>
            <select
              value={model.value}
              onChange={(event) => chooseModel(event.currentTarget.value)}
            >
              {models.value.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        )}
        <label class="field wide">
          <span>{t.system}</span>
          <textarea
            rows={3}
            placeholder={t.systemHint}
            value={system}
            onChange={(event) => configure({ system: event.currentTarget.value })}
          />
        </label>
        {SAMPLING_NAMES.map((name) => (
          <SamplingField key={name} name={name} />
        ))}
        <button
          type="button"
          class="small"
          disabled={!isChanged}
          onClick={() => configure({ system: "", sampling: {} })}
        >
          {t.reset}
        </button>
      </div>
    </details>
  );
}

function SamplingField({ name }: { readonly name: SamplingName }): VNode {
  const t = text.value.chat;
  const { low, high, step } = SAMPLING[name];
  const { sampling } = current.value;
  const change = (input: HTMLInputElement): void => {
    if (!input.reportValidity()) return;
    const { [name]: _, ...others } = sampling;
    configure({
      sampling: input.value === "" ? others : { ...others, [name]: input.valueAsNumber },
    });
  };
  return (
    <label class="field">
      <span>{t.sampling[name]}</span>
      <input
        type="number"
        min={low}
        max={high}
        step={step === 1 ? 1 : "any"}
        placeholder={t.asModel}
        title={t.outside(String(low), String(high))}
        value={sampling[name] ?? ""}
        onChange={(event) => change(event.currentTarget)}
      />
    </label>
  );
}
