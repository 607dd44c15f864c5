/** Asks for the key, when the server wants one. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { apiKey, giveKey } from "../api/key";
import { text } from "../preferences";

export function KeyForm(): VNode {
  const t = text.value.key;
  const key = useSignal("");
  const isRemembered = useSignal(false);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.focus(), []);
  const send = (event: Event): void => {
    event.preventDefault();
    if (key.value.trim() !== "") giveKey(key.value.trim(), isRemembered.value);
  };
  return (
    <form class="card key-form" onSubmit={send}>
      <h1>{t.title}</h1>
      <p class="quiet">{t.why}</p>
      {apiKey.value !== null && (
        <p class="note bad" role="alert">
          {t.wrong}
        </p>
      )}
      <label class="field wide">
        <span>{t.label}</span>
        <input
          type="password"
          autoComplete="current-password"
          spellcheck={false}
          ref={input}
          value={key.value}
          onInput={(event) => (key.value = event.currentTarget.value)}
        />
      </label>
      <label class="row">
        <input
          type="checkbox"
          checked={isRemembered.value}
          onChange={(event) => (isRemembered.value = event.currentTarget.checked)}
        />
        <span>{t.remember}</span>
      </label>
      <button type="submit" class="main">
        {t.send}
      </button>
    </form>
  );
}
