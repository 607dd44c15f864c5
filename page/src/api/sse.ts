/**
 * Server-sent events, read from a fetched stream: EventSource cannot send a key.
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */

export interface ServerEvent {
  readonly event: string;
  readonly data: string;
}

/** Turns text, cut anywhere, into events. */
export class EventParser {
  #rest = "";
  #event = "";
  #data: string[] = [];

  push(text: string): ServerEvent[] {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/); // \r at the end may be half of \r\n
    this.#rest = lines.pop() ?? "";
    return lines.flatMap((line) => this.#line(line) ?? []);
  }

  #line(line: string): ServerEvent | null {
    if (line === "") return this.#finish();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    if (field === "data") this.#data.push(value);
    return null; // a comment (empty field) keeps the connection open
  }

  #finish(): ServerEvent | null {
    const event = { event: this.#event || "message", data: this.#data.join("\n") };
    const isEmpty = this.#data.length === 0;
    this.#event = "";
    this.#data = [];
    return isEmpty ? null : event;
  }
}

/** The stream broke off. */
export class StreamError extends Error {}

/** Yield the events of a stream; `onBytes` hears of every piece, comments too. Raises StreamError. */
export async function* eventsOf(
  body: ReadableStream<Uint8Array>,
  onBytes: () => void = () => undefined,
): AsyncGenerator<ServerEvent> {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (let part = await next(reader); !part.done; part = await next(reader)) {
      onBytes();
      yield* parser.push(decoder.decode(part.value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

async function next(
  reader: ReadableStreamDefaultReader<Uint8Array>,
): Promise<ReadableStreamReadResult<Uint8Array>> {
  try {
    return await reader.read();
  } catch (error) {
    throw new StreamError(error instanceof Error ? error.message : String(error));
  }
}
