/** The list of conversations: open, rename, delete, export. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { moment } from "../format";
import { text } from "../preferences";
import { asMarkdown } from "./conversation";
import type { Summary } from "./history";
import {
  current,
  everything,
  openConversation,
  remove,
  removeAll,
  rename,
  running,
  startNew,
  summaries,
  titleOfCurrent,
} from "./session";
import { visible } from "./visible";

export function Conversations({ onChosen }: { readonly onChosen: () => void }): VNode {
  const t = text.value.chat;
  const hasSome = summaries.value.length > 0;
  return (
    <nav class="conversations" aria-label={t.conversations}>
      <button
        type="button"
        class="main"
        onClick={() => {
          startNew();
          onChosen();
        }}
      >
        {t.fresh}
      </button>
      <ul>
        {summaries.value.map((summary) => (
          <Entry key={summary.id} summary={summary} onChosen={onChosen} />
        ))}
      </ul>
      <p class="quiet">{t.where}</p>
      {hasSome && (
        <p class="row">
          <button type="button" class="small" onClick={exportAll}>
            {t.exportAll}
          </button>
          <button
            type="button"
            class="small"
            onClick={() => {
              if (confirm(t.reallyRemoveAll)) removeAll();
            }}
          >
            {t.removeAll}
          </button>
        </p>
      )}
    </nav>
  );
}

function Entry({ summary, onChosen }: { summary: Summary; onChosen: () => void }): VNode {
  const t = text.value.chat;
  const isNaming = useSignal(false);
  const isCurrent = summary.id === current.value.id;
  const title = summary.title === null ? t.untitled : visible(summary.title);
  if (isNaming.value) {
    return (
      <li>
        <NameForm
          id={summary.id}
          title={summary.title ?? ""}
          onDone={() => (isNaming.value = false)}
        />
      </li>
    );
  }
  return (
    <li class={isCurrent ? "current" : ""}>
      <button
        type="button"
        class="plain"
        aria-current={isCurrent ? "true" : undefined}
        onClick={() => {
          openConversation(summary.id);
          onChosen();
        }}
      >
        <span class="title">{title}</span>
        <span class="quiet">{running.value.has(summary.id) ? "…" : moment(summary.changed)}</span>
      </button>
      {isCurrent && (
        <span class="row">
          <button type="button" class="small" onClick={() => (isNaming.value = true)}>
            {t.rename}
          </button>
          <button type="button" class="small" onClick={exportCurrent}>
            {t.export}
          </button>
          <button
            type="button"
            class="small"
            onClick={() => {
              if (confirm(t.reallyRemove(title))) remove(summary.id);
            }}
          >
            {t.remove}
          </button>
        </span>
      )}
    </li>
  );
}

function NameForm({ id, title, onDone }: { id: string; title: string; onDone: () => void }): VNode {
  const t = text.value.chat;
  const name = useSignal(title);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.focus(), []);
  return (
    <form
      class="row"
      onSubmit={(event) => {
        event.preventDefault();
        rename(id, name.value);
        onDone();
      }}
    >
      <input
        aria-label={t.newName}
        value={name.value}
        ref={input}
        onInput={(event) => (name.value = event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Escape" && onDone()}
      />
      <button type="submit" class="small">
        {t.rename}
      </button>
    </form>
  );
}

function exportCurrent(): void {
  const t = text.value.chat;
  const name = (titleOfCurrent() ?? t.untitled).replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  download(`${name}.md`, asMarkdown(current.value, t.you, t.untitled), "text/markdown");
}

function exportAll(): void {
  download("dure-chats.json", JSON.stringify(everything(), null, 2), "application/json");
}

function download(name: string, content: string, type: string): void {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  URL.revokeObjectURL(address);
}
