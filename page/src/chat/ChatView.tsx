/** The view of a conversation. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { text } from "../preferences";
import { Composer } from "./Composer";
import { Conversations } from "./Conversations";
import { MessageView, RunningAnswer } from "./MessageView";
import { current, isFull, running, titleOfCurrent } from "./session";
import { Settings } from "./Settings";
import { visible } from "./visible";

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
        <Composer isWriting={isWriting} />
      </section>
    </div>
  );
}

const NEAR_END_PX = 60;

/** The messages; follows the end of what is written unless the reader has scrolled up. */
function Messages(): VNode {
  const t = text.value.chat;
  const { id, messages } = current.value;
  const answer = running.value.get(id);
  const list = useRef<HTMLDivElement>(null);
  const isAtEnd = useRef(true);
  const finished = messages.at(-1);

  useLayoutEffect(() => {
    if (isAtEnd.current) list.current?.scrollTo({ top: list.current.scrollHeight });
  });
  useLayoutEffect(() => {
    if (finished?.role === "assistant") return;
    isAtEnd.current = true; // who asks wants to see the answer
    list.current?.scrollTo({ top: list.current.scrollHeight });
  }, [messages.length]);

  const onScroll = (): void => {
    const box = list.current;
    if (box !== null) {
      isAtEnd.current = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
    }
  };
  return (
    <div
      class="messages"
      ref={list}
      onScroll={onScroll}
      tabIndex={0}
      role="group"
      aria-label={t.title}
    >
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
      <p class="unseen" aria-live="polite">
        {answer === undefined && finished?.role === "assistant" ? t.finished : ""}
      </p>
    </div>
  );
}
