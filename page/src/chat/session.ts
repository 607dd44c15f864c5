/**
 * The conversations of this browser and the answers that are being written, as signals and actions.
 * An answer goes on when another conversation is opened.
 */
import { computed, signal } from "@preact/signals";
import { ApiError, getJson, post } from "../api/client";
import { keyChanges } from "../api/key";
import { eventsOf } from "../api/sse";
import { keep, read, text } from "../preferences";
import { AnswerBuilder, type Reading } from "./answer";
import {
  answered,
  asked,
  type AssistantMessage,
  type Conversation,
  newConversation,
  requestFor,
  titleOf,
  unanswered,
} from "./conversation";
import { History, MemoryStorage, type Summary } from "./history";

/** An answer while it is written; changed once per frame. */
export interface Running {
  readonly message: AssistantMessage;
  readonly reading: Reading | null;
}

const history = new History(usableStorage());

export const summaries = signal<readonly Summary[]>(history.list());
export const current = signal<Conversation>(restored());
/** Answers that are being written, by conversation. */
export const running = signal<ReadonlyMap<string, Running>>(new Map());
export const isFull = signal(false);
export const models = signal<readonly string[]>([]);
export const chosenModel = signal<string | null>(read("dure.model"));
/** The model that answers next. */
export const model = computed(() => {
  const chosen = chosenModel.value;
  return chosen !== null && models.value.includes(chosen) ? chosen : (models.value[0] ?? "");
});

const stoppers = new Map<string, AbortController>();

/** Follow other tabs, and keep what is written when this one closes. */
export function followHistory(): void {
  window.addEventListener("storage", () => {
    summaries.value = history.list();
  });
  window.addEventListener("pagehide", () => {
    for (const [id, { message }] of running.value) {
      const found = find(id);
      if (found !== null) store(answered(found, message));
    }
  });
  keyChanges.subscribe(() => void fetchModels());
}

async function fetchModels(): Promise<void> {
  try {
    const { data } = await getJson<{ data: { id: string }[] }>("v1/models");
    models.value = data.map(({ id }) => id);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // asked again with the next message
  }
}

export function chooseModel(name: string): void {
  chosenModel.value = name;
  keep("dure.model", name);
}

export function startNew(): void {
  if (current.value.messages.length === 0) return;
  open(newConversation(newId(), now(), current.value));
}

export function openConversation(id: string): void {
  const found = history.load(id);
  if (found !== null) open(found);
}

export function rename(id: string, name: string): void {
  const found = find(id);
  if (found !== null && name.trim() !== "") change({ ...found, name: name.trim() });
}

export function remove(id: string): void {
  stop(id);
  unsaved.delete(id);
  history.remove(id);
  afterRemoval();
}

export function removeAll(): void {
  for (const stopper of stoppers.values()) stopper.abort();
  unsaved.clear();
  history.removeAll();
  afterRemoval();
}

function afterRemoval(): void {
  summaries.value = history.list();
  isFull.value = false;
  const { id } = current.value;
  if (!summaries.value.some((summary) => summary.id === id)) {
    open(newConversation(newId(), now(), current.value));
  }
}

export function everything(): readonly Conversation[] {
  return summaries.value.flatMap(({ id }) => find(id) ?? []);
}

/** Change system prompt or sampling of the current conversation. */
export function configure(settings: Partial<Pick<Conversation, "system" | "sampling">>): void {
  current.value = { ...current.value, ...settings };
  if (current.value.messages.length > 0) store(current.value);
}

/** Ask at the end, or in place of message `index`, which forgets what followed it. */
export function ask(text: string, index = current.value.messages.length): void {
  answer(asked(current.value, text, index));
}

export function answerAgain(): void {
  const question = unanswered(current.value);
  if (question !== null) answer(question);
}

export function stop(id: string): void {
  stoppers.get(id)?.abort();
}

function answer(question: Conversation): void {
  if (stoppers.has(question.id)) return;
  change({ ...question, changed: now() });
  keep("dure.chat", question.id); // opened again after a reload
  const stopper = new AbortController();
  stoppers.set(question.id, stopper);
  void write(question, stopper.signal);
}

async function write(question: Conversation, stopped: AbortSignal): Promise<void> {
  const { id } = question;
  const builder = new AnswerBuilder(model.value);
  const show = perFrame(() => setRunning(id, builder));
  setRunning(id, builder);
  const begun = performance.now();
  try {
    if (models.value.length === 0) await fetchModels();
    const name = model.value;
    builder.asks(name);
    const response = await post("v1/chat/completions", requestFor(question, name), stopped);
    if (response.body === null) throw new ApiError(0, "the server answered nothing");
    for await (const { data } of eventsOf(response.body)) {
      builder.take(data, (performance.now() - begun) / 1000);
      show.soon();
    }
    if (!builder.isEnded) builder.fail(text.value.chat.endedEarly, null);
  } catch (error) {
    if (stopped.aborted) builder.stop();
    else if (error instanceof ApiError) builder.fail(error.message, error.cure);
    else builder.fail(error instanceof Error ? error.message : String(error), null);
  }
  show.cancel();
  finish(id, builder.message);
}

function finish(id: string, message: AssistantMessage): void {
  stoppers.delete(id);
  running.value = new Map([...running.value].filter(([other]) => other !== id));
  const found = find(id); // null: deleted meanwhile
  if (found !== null) change({ ...answered(found, message), changed: now() });
}

function setRunning(id: string, { message, reading }: AnswerBuilder): void {
  running.value = new Map(running.value).set(id, { message, reading });
}

/** Put a changed conversation into the storage, and into view if it is the current one. */
function change(conversation: Conversation): void {
  if (conversation.id === current.value.id) current.value = conversation;
  store(conversation);
}

function store(conversation: Conversation): void {
  isFull.value = history.save(conversation) === "full";
  if (!isFull.value) summaries.value = history.list();
  unsaved.set(conversation.id, conversation);
  if (!isFull.value) unsaved.delete(conversation.id);
}

/** What a full storage did not take; it lives as long as this tab. */
const unsaved = new Map<string, Conversation>();

function find(id: string): Conversation | null {
  if (id === current.value.id) return isKnown(id) ? current.value : null;
  return unsaved.get(id) ?? history.load(id);
}

function isKnown(id: string): boolean {
  return unsaved.has(id) || summaries.value.some((summary) => summary.id === id);
}

function open(conversation: Conversation): void {
  current.value = unsaved.get(conversation.id) ?? conversation;
  keep("dure.chat", conversation.id);
}

function restored(): Conversation {
  const id = read("dure.chat");
  const found = id === null ? null : history.load(id);
  return found ?? newConversation(newId(), now());
}

function usableStorage(): Storage {
  try {
    return localStorage;
  } catch {
    return new MemoryStorage();
  }
}

/** Return an id; randomUUID is missing where the page comes over plain HTTP from another machine. */
function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

function now(): number {
  return Date.now() / 1000;
}

/** Return how to call `act` before the next frame, however often it is wanted. */
function perFrame(act: () => void): { soon: () => void; cancel: () => void } {
  let frame = 0;
  return {
    soon: () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        act();
      });
    },
    cancel: () => cancelAnimationFrame(frame),
  };
}

export function titleOfCurrent(): string | null {
  return titleOf(current.value);
}
