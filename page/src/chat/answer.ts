/** Puts an answer together from the chunks of a streamed chat completion. Pure. */
import { errorOf } from "../api/client";
import type { AssistantMessage, Figures, ToolCall } from "./conversation";

interface Chunk {
  readonly choices?: readonly {
    readonly delta?: {
      readonly content?: string | null;
      readonly reasoning_content?: string | null;
      readonly tool_calls?: readonly {
        readonly index: number;
        readonly function?: { readonly name?: string; readonly arguments?: string };
      }[];
    };
    readonly finish_reason?: string | null;
  }[];
  readonly prompt_progress?: { readonly total: number; readonly processed: number };
  readonly timings?: {
    readonly cache_n?: number;
    readonly prompt_n?: number;
    readonly predicted_n?: number;
    readonly predicted_per_second?: number;
    readonly compute_ms?: number;
    readonly sync_ms?: number;
  };
}

/** How far the prompt is read, tokens. */
export interface Reading {
  readonly done: number;
  readonly all: number;
}

export class AnswerBuilder {
  #message: AssistantMessage;
  #reading: Reading | null = null;
  #first_s: number | null = null;

  constructor(model: string) {
    this.#message = {
      role: "assistant",
      model,
      text: "",
      thinking: "",
      toolCalls: [],
      finish: null,
      figures: null,
      error: null,
      cure: null,
    };
  }

  get message(): AssistantMessage {
    return this.#message;
  }

  /** Whether it is whole, or it is known why not. */
  get isEnded(): boolean {
    return this.#message.finish !== null || this.#message.error !== null;
  }

  /** Before the first token: how far the prompt is read. */
  get reading(): Reading | null {
    return this.#first_s === null ? this.#reading : null;
  }

  /** Take in the data of one event; after_s: seconds since the request. */
  take(data: string, after_s: number): void {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data) as Chunk;
    const error = errorOf(chunk);
    if (error !== null) this.fail(error.message, error.cure);
    if (chunk.prompt_progress !== undefined) {
      this.#reading = { done: chunk.prompt_progress.processed, all: chunk.prompt_progress.total };
    }
    for (const choice of chunk.choices ?? []) {
      this.#delta(choice.delta ?? {}, after_s);
      if (typeof choice.finish_reason === "string") this.#change({ finish: choice.finish_reason });
    }
    if (chunk.timings !== undefined) this.#change({ figures: this.#figures(chunk.timings) });
  }

  /** Note which model is asked: that may be known only after it was begun. */
  asks(model: string): void {
    this.#change({ model });
  }

  /** Note that the person stopped it. */
  stop(): void {
    this.#change({ finish: "stopped" });
  }

  fail(error: string, cure: string | null): void {
    this.#change({ error, cure });
  }

  #delta(
    delta: NonNullable<NonNullable<Chunk["choices"]>[number]["delta"]>,
    after_s: number,
  ): void {
    const { text, thinking } = this.#message;
    const added = delta.content ?? "";
    const thought = delta.reasoning_content ?? "";
    if (added !== "" || thought !== "" || delta.tool_calls !== undefined) this.#first_s ??= after_s;
    if (added !== "") this.#change({ text: text + added });
    if (thought !== "") this.#change({ thinking: thinking + thought });
    for (const call of delta.tool_calls ?? []) {
      const toolCalls: ToolCall[] = [...this.#message.toolCalls];
      const before = toolCalls[call.index] ?? { name: "", arguments: "" };
      toolCalls[call.index] = {
        name: before.name + (call.function?.name ?? ""),
        arguments: before.arguments + (call.function?.arguments ?? ""),
      };
      this.#change({ toolCalls });
    }
  }

  #figures(timings: NonNullable<Chunk["timings"]>): Figures {
    const cached = timings.cache_n ?? 0;
    const steps_ms = (timings.compute_ms ?? 0) + (timings.sync_ms ?? 0);
    return {
      tokens: timings.predicted_n ?? 0,
      tokens_per_s: timings.predicted_per_second ?? 0,
      first_s: this.#first_s,
      prompt_tokens: cached + (timings.prompt_n ?? 0),
      cached_tokens: cached,
      waited: steps_ms > 0 ? (timings.sync_ms ?? 0) / steps_ms : null,
    };
  }

  #change(change: Partial<AssistantMessage>): void {
    this.#message = { ...this.#message, ...change };
  }
}
