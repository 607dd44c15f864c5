/** A conversation and what may become of it. Pure: knows neither the server nor where it is kept. */

export interface ToolCall {
  readonly name: string;
  readonly arguments: string;
}

/** How an answer went, seconds. */
export interface Figures {
  readonly tokens: number;
  readonly tokens_per_s: number;
  readonly first_s: number | null;
  readonly prompt_tokens: number;
  readonly cached_tokens: number;
  /** Of the time of its steps, 0 to 1; null if nothing is known of ranks. */
  readonly waited: number | null;
}

export interface UserMessage {
  readonly role: "user";
  readonly text: string;
}

export interface AssistantMessage {
  readonly role: "assistant";
  readonly model: string;
  readonly text: string;
  readonly thinking: string;
  readonly toolCalls: readonly ToolCall[];
  /** As the API says: stop, length, tool_calls; "stopped" if the person did. */
  readonly finish: string | null;
  readonly figures: Figures | null;
  readonly error: string | null;
  readonly cure: string | null;
}

export type Message = UserMessage | AssistantMessage;

/** What can be set of sampling, within which bounds. */
export const SAMPLING = {
  temperature: { low: 0, high: 2, step: 0.05 },
  top_p: { low: 0, high: 1, step: 0.01 },
  top_k: { low: 0, high: 1000, step: 1 },
  min_p: { low: 0, high: 1, step: 0.01 },
  max_tokens: { low: 1, high: 1_000_000, step: 1 },
  seed: { low: 0, high: 4_294_967_294, step: 1 },
} as const;

export type SamplingName = keyof typeof SAMPLING;
export type Sampling = Readonly<Partial<Record<SamplingName, number>>>;
export const SAMPLING_NAMES = Object.keys(SAMPLING) as SamplingName[];

export interface Conversation {
  readonly id: string;
  /** What the person named it; else its first message names it. */
  readonly name: string | null;
  readonly changed: number;
  readonly system: string;
  readonly sampling: Sampling;
  readonly messages: readonly Message[];
}

const TITLE_LENGTH = 60;

export function newConversation(id: string, now_s: number, like?: Conversation): Conversation {
  return {
    id,
    name: null,
    changed: now_s,
    system: like?.system ?? "",
    sampling: like?.sampling ?? {},
    messages: [],
  };
}

export function titleOf(conversation: Conversation): string | null {
  const first = conversation.messages.find((message) => message.role === "user");
  const title = conversation.name ?? first?.text.trim().replace(/\s+/g, " ");
  if (title === undefined || title === "") return null;
  return title.length > TITLE_LENGTH ? `${title.slice(0, TITLE_LENGTH - 1)}…` : title;
}

/** Return it with the messages before `index` and a new one of the person. */
export function asked(conversation: Conversation, text: string, index: number): Conversation {
  const kept = conversation.messages.slice(0, index);
  return { ...conversation, messages: [...kept, { role: "user", text }] };
}

export function answered(conversation: Conversation, answer: AssistantMessage): Conversation {
  return { ...conversation, messages: [...conversation.messages, answer] };
}

/** Return it without the answers at its end, to be answered again; null if nobody asked. */
export function unanswered(conversation: Conversation): Conversation | null {
  const last = conversation.messages.findLastIndex((message) => message.role === "user");
  if (last < 0) return null;
  return { ...conversation, messages: conversation.messages.slice(0, last + 1) };
}

/** Return the body of a request for the next answer. */
export function requestFor(conversation: Conversation, model: string): Record<string, unknown> {
  const system = conversation.system.trim();
  const messages = conversation.messages
    .filter(({ role, text }) => role === "user" || text !== "")
    .map(({ role, text }) => ({ role, content: text }));
  return {
    model,
    messages: system === "" ? messages : [{ role: "system", content: system }, ...messages],
    ...conversation.sampling,
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
  };
}

/** Return it as Markdown, for a file. */
export function asMarkdown(conversation: Conversation, you: string, untitled: string): string {
  const parts = [`# ${titleOf(conversation) ?? untitled}`];
  if (conversation.system !== "") parts.push(quoted(conversation.system));
  for (const message of conversation.messages) {
    parts.push(`## ${message.role === "user" ? you : message.model}`);
    if (message.role === "assistant" && message.thinking !== "")
      parts.push(quoted(message.thinking));
    parts.push(message.text);
  }
  return `${parts.join("\n\n")}\n`;
}

function quoted(text: string): string {
  return text
    .split("\n")
    .map((line) => `> ${line}`)
    .join("\n");
}
