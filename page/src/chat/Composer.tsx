/** Where a message is written, sent and stopped. Shown anew for each conversation. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { text } from "../preferences";
import { ask, current, stop } from "./session";

const TALLEST_PX = 240;

/** What was written and not sent, by conversation: another view may be looked at meanwhile. */
const drafts = new Map<string, string>();

export function Composer({ isWriting }: { readonly isWriting: boolean }): VNode {
  const t = text.value.chat;
  const { id } = current.value;
  const written = useSignal(drafts.get(id) ?? "");
  const area = useRef<HTMLTextAreaElement>(null);

  useEffect(() => area.current?.focus({ preventScroll: true }), []);
  useEffect(() => fit(area.current), [written.value]);

  const write = (draft: string): void => {
    written.value = draft;
    if (draft === "") drafts.delete(id);
    else drafts.set(id, draft);
  };
  const send = (): void => {
    const wanted = written.value.trim();
    if (wanted === "" || isWriting) return;
    write("");
    ask(wanted);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Hangul is composed
    event.preventDefault();
    send();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={area}
        rows={1}
        dir="auto"
        aria-label={t.placeholder}
        placeholder={t.placeholder}
        value={written.value}
        onInput={(event) => write(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      {isWriting ? (
        <button type="button" class="main stop" onClick={() => stop(id)}>
          {t.stop}
        </button>
      ) : (
        <button type="submit" class="main" disabled={written.value.trim() === ""}>
          {t.send}
        </button>
      )}
      <p class="quiet keys">{t.keys}</p>
    </form>
  );
}

function fit(area: HTMLTextAreaElement | null): void {
  if (area === null) return;
  area.style.setProperty("height", "auto");
  area.style.setProperty("height", `${Math.min(area.scrollHeight + 2, TALLEST_PX)}px`);
}
