/** One message of a conversation, and the answer that is being written. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useMemo } from "preact/hooks";
import { count, figure, percent, short } from "../format";
import { text } from "../preferences";
import { toldText } from "../text/told";
import type { AssistantMessage, Figures, Message, ToolCall } from "./conversation";
import { GrowingMarkdown } from "./growing";
import { CopyButton, Markdown } from "./Markdown";
import { answerAgain, ask, type Running } from "./session";
import { visible } from "./visible";

interface MessageProps {
  readonly message: Message;
  readonly index: number;
  readonly isLast: boolean;
  /** Nothing is being written, so that this may be changed. */
  readonly isFree: boolean;
}

export function MessageView({ message, index, isLast, isFree }: MessageProps): VNode {
  return message.role === "user" ? (
    <Question text={message.text} index={index} isFree={isFree} />
  ) : (
    <article class="message answer" aria-label={message.model || text.value.chat.model}>
      <AnswerBody message={message} isWriting={false} />
      <footer>
        {message.figures !== null && <FigureLine figures={message.figures} />}
        <span class="row">
          <CopyButton content={message.text} />
          {isLast && isFree && (
            <button type="button" class="small" onClick={answerAgain}>
              {text.value.chat.regenerate}
            </button>
          )}
        </span>
      </footer>
    </article>
  );
}

function Question({
  text: asked,
  index,
  isFree,
}: {
  text: string;
  index: number;
  isFree: boolean;
}): VNode {
  const t = text.value.chat;
  const edited = useSignal<string | null>(null);
  const send = (event: Event): void => {
    event.preventDefault();
    const wanted = edited.value?.trim() ?? "";
    edited.value = null;
    if (wanted !== "") ask(wanted, index);
  };
  if (edited.value !== null) {
    return (
      <form class="message question editing" onSubmit={send}>
        <textarea
          aria-label={t.edit}
          rows={Math.min(12, edited.value.split("\n").length + 1)}
          value={edited.value}
          onInput={(event) => (edited.value = event.currentTarget.value)}
        />
        <span class="row">
          <button type="submit" class="main" disabled={!isFree}>
            {t.save}
          </button>
          <button type="button" onClick={() => (edited.value = null)}>
            {t.cancel}
          </button>
        </span>
      </form>
    );
  }
  return (
    <article class="message question" aria-label={t.you}>
      <p class="asked" dir="auto">
        {visible(asked)}
      </p>
      {isFree && (
        <button type="button" class="small" onClick={() => (edited.value = asked)}>
          {t.edit}
        </button>
      )}
    </article>
  );
}

/** The answer that is being written; not read aloud token by token. */
export function RunningAnswer({ running }: { readonly running: Running }): VNode {
  const t = text.value.chat;
  const { message, reading } = running;
  const isEmpty = message.text === "" && message.thinking === "" && message.toolCalls.length === 0;
  return (
    <article class="message answer writing" aria-label={message.model || t.model} aria-busy="true">
      {isEmpty && (
        <p class="quiet">
          {reading === null || reading.done >= reading.all
            ? t.begins
            : t.reading(count(reading.done), count(reading.all))}
        </p>
      )}
      <AnswerBody message={message} isWriting={true} />
    </article>
  );
}

function AnswerBody({
  message,
  isWriting,
}: {
  message: AssistantMessage;
  isWriting: boolean;
}): VNode {
  const t = text.value.chat;
  const growing = useMemo(() => new GrowingMarkdown(), []);
  return (
    <>
      {message.thinking !== "" && (
        <Thoughts thinking={message.thinking} isThinking={isWriting && message.text === ""} />
      )}
      {message.text !== "" && <Markdown blocks={growing.read(message.text)} />}
      {message.toolCalls.map((call, i) => (
        <ToolCallView key={i} call={call} />
      ))}
      {message.finish === "stopped" && <p class="note">{t.stopped}</p>}
      {message.finish === "length" && <p class="note">{t.cutOff}</p>}
      {message.error !== null && (
        <p class="note bad" role="alert">
          {t.failed} {toldText(visible(message.error))}{" "}
          {message.cure !== null && toldText(visible(message.cure))}
        </p>
      )}
    </>
  );
}

function Thoughts({ thinking, isThinking }: { thinking: string; isThinking: boolean }): VNode {
  const t = text.value.chat;
  const growing = useMemo(() => new GrowingMarkdown(), []);
  const isOpen = useSignal(false);
  return (
    <details class="thoughts" onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
      <summary>{isThinking ? t.thinking : t.thought}</summary>
      {isOpen.value && <Markdown blocks={growing.read(thinking)} />}
    </details>
  );
}

function ToolCallView({ call }: { readonly call: ToolCall }): VNode {
  return (
    <figure class="code tool">
      <figcaption>
        <span>
          {text.value.chat.toolCall}: <b>{visible(call.name)}</b>
        </span>
      </figcaption>
      <pre tabIndex={0}>
        <code>{visible(indented(call.arguments))}</code>
      </pre>
    </figure>
  );
}

function indented(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // still being written, or no JSON
  }
}

function FigureLine({ figures }: { readonly figures: Figures }): VNode {
  const t = text.value.chat;
  const said = [t.figures(count(figures.tokens), figure(figures.tokens_per_s))];
  if (figures.first_s !== null) said.push(t.firstAfter(short(figures.first_s)));
  if (figures.cached_tokens > 0) {
    said.push(t.fromCache(count(figures.cached_tokens), count(figures.prompt_tokens)));
  }
  if (figures.waited !== null) said.push(t.waited(percent(figures.waited)));
  return <span class="quiet figures">{said.join(" · ")}</span>;
}
