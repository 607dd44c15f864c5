/**
 * The live feed: what the server says of itself, as signals.
 * Reconnects by itself, and says at once when the connection is lost.
 */
import { signal } from "@preact/signals";
import { arrivedLog, arrivedState } from "./arrived";
import { ApiError, ask } from "./client";
import type { LogEntry, State, Step } from "./contract";
import { isKeyWanted, keyChanges } from "./key";
import { eventsOf } from "./sse";
import { StepHistory } from "./steps";

export type Connection = "connecting" | "live" | "lost";

const SILENCE_S = 4; // a state comes twice a second
const LONGEST_PAUSE_S = 8;
const HIDDEN_S = 20; // nobody looks: the server need not tell
const MOST_LOG_ENTRIES = 1000;

export const connection = signal<Connection>("connecting");
export const state = signal<State | null>(null);
export const log = signal<readonly LogEntry[]>([]);
export const steps = new StepHistory();

let running: AbortController | null = null;

/** Follow the feed for as long as the page is open. */
export function followFeed(): void {
  let hiding = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = window.setTimeout(stop, HIDDEN_S * 1000);
    else start();
  });
  window.addEventListener("online", restart);
  keyChanges.subscribe(restart);
}

function start(): void {
  if (running !== null) return;
  running = new AbortController();
  void keepReading(running.signal);
}

function stop(): void {
  running?.abort();
  running = null;
}

function restart(): void {
  stop();
  start();
}

async function keepReading(stopped: AbortSignal): Promise<void> {
  for (let pause_s = 0.5; !stopped.aborted; pause_s = Math.min(pause_s * 2, LONGEST_PAUSE_S)) {
    const wasLive = await readOnce(stopped);
    if (stopped.aborted) return;
    connection.value = "lost";
    if (isKeyWanted.value) return; // giveKey starts again
    if (wasLive) pause_s = 0.5;
    await new Promise((resolve) => setTimeout(resolve, pause_s * 1000));
  }
}

/** Read until the connection ends; return whether anything came. */
async function readOnce(stopped: AbortSignal): Promise<boolean> {
  const silence = new AbortController();
  let timer = 0;
  const heard = (): void => {
    clearTimeout(timer);
    timer = window.setTimeout(() => silence.abort(), SILENCE_S * 1000);
  };
  let wasLive = false;
  try {
    heard();
    const answer = await ask("page/feed", { signal: AbortSignal.any([stopped, silence.signal]) });
    if (answer.body === null) return false;
    log.value = []; // the last entries come again
    for await (const { event, data } of eventsOf(answer.body, heard)) {
      receive(event, data);
      wasLive = true;
    }
  } catch (error) {
    if (!(
      error instanceof ApiError ||
      error instanceof DOMException ||
      error instanceof TypeError
    )) {
      throw error;
    }
  } finally {
    clearTimeout(timer);
  }
  return wasLive;
}

function receive(event: string, data: string): void {
  if (event === "state") {
    state.value = arrivedState(JSON.parse(data) as State);
    connection.value = "live";
  } else if (event === "steps") {
    steps.add(JSON.parse(data) as Step[]);
  } else if (event === "log") {
    log.value = [...log.value, ...arrivedLog(JSON.parse(data) as LogEntry[])].slice(
      -MOST_LOG_ENTRIES,
    );
  }
}
