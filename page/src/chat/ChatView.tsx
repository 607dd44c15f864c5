/** The view of a conversation. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useRef } from "preact/hooks";
import { text } from "../preferences";
import { Composer } from "./Composer";
import { Conversations } from "./Conversations";
import { useFollowedEnd } from "./follow_end";
import { MessageView, RunningAnswer } from "./MessageView";
import { current, isFull, running, titleOfCurrent } from "./session";
import { Settings } from "./Settings";
import { visible } from "./visible";

export { followHistory } from "./session"; // comes with the view, and is called once

export function ChatView(): VNode {
  const t = text.value.chat;
  const isListShown = useSignal(false); // on a narrow screen, where it covers the conversation
  const isWriting = running.value.has(current.value.id);
  return (
    <div class={isListShown.value ? "chat with-list" : "chat"}>
      <Conversations onChosen={() => (isListShown.value = false)} />
      <section class="conversation" aria-label={t.title}>
        <header class="row">
          <button
            type="button"
            class="list-switch"
            aria-expanded={isListShown.value}
            onClick={() => (isListShown.value = !isListShown.value)}
          >
            ☰ <span class="unseen">{t.conversations}</span>
          </button>
          <h1>{visible(titleOfCurrent() ?? t.title)}</h1>
          <Settings />
        </header>
        {isFull.value && (
          <p class="note bad" role="alert">
            {t.full}
          </p>
        )}
        <Messages key={current.value.id} />
        <Composer key={current.value.id} isWriting={isWriting} />
      </section>
    </div>
  );
}

/** The messages; follows the end of what is written unless the reader has scrolled up. */
function Messages(): VNode {
  const t = text.value.chat;
  const { id, messages } = current.value;
  const answer = running.value.get(id);
  const box = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const asked = messages.findLastIndex(({ role }) => role === "user");
  useFollowedEnd(box, content, asked);
  return (
    <div class="messages" ref={box} tabIndex={0} role="group" aria-label={t.title}>
      <div class="messages-content" ref={content}>
        {messages.length === 0 && (
          <div class="hello">
            <p>{t.hello}</p>
            <p class="quiet">{t.helloWhy}</p>
          </div>
        )}
        {messages.map((message, i) => (
          <MessageView
            key={i}
            message={message}
            index={i}
            isLast={i === messages.length - 1}
            isFree={answer === undefined}
          />
        ))}
        {answer !== undefined && <RunningAnswer running={answer} />}
      </div>
      <p class="unseen" aria-live="polite">
        {answer === undefined && messages.at(-1)?.role === "assistant" ? t.finished : ""}
      </p>
    </div>
  );
}
