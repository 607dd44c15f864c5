/**
 * The live feed: what the server says of itself, as signals.
 * Reconnects by itself, and says at once when the connection is lost.
 */
import { signal } from "@preact/signals";
import { arrivedLog, arrivedState } from "./arrived";
import { ApiError, ask } from "./client";
import type { LogEntry, State, Step } from "./contract";
import { isKeyWanted, keyChanges } from "./key";
import { type Ended, keepTrying } from "./retry";
import { eventsOf } from "./sse";
import { StepHistory } from "./steps";

export type Connection = "connecting" | "live" | "lost";

const SILENCE_S = 4; // a state comes twice a second
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
  isKeyWanted.subscribe((isWanted) => isWanted && forget());
  keyChanges.subscribe(restart);
}

function start(): void {
  if (running !== null || isKeyWanted.value) return; // a new key restarts it
  running = new AbortController();
  const { signal: stopped } = running;
  void keepTrying(() => readOnce(stopped), lost, stopped, sleep);
}

function stop(): void {
  running?.abort();
  running = null;
}

function restart(): void {
  stop();
  start();
}

/** Close what a key had opened, and keep nothing that it let be seen. */
function forget(): void {
  stop();
  connection.value = "connecting";
  state.value = null;
  log.value = [];
  steps.clear();
}

function lost(error: unknown): void {
  connection.value = "lost";
  if (error !== null) console.error(error);
}

function sleep(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

/** Read until the connection ends; "well" if anything came. Raises what is no loss of the connection. */
async function readOnce(stopped: AbortSignal): Promise<Ended> {
  const silence = new AbortController();
  let timer = 0;
  const heard = (): void => {
    clearTimeout(timer);
    timer = window.setTimeout(() => silence.abort(), SILENCE_S * 1000);
  };
  let ended: Ended = "badly";
  try {
    heard();
    const answer = await ask("page/feed", { signal: AbortSignal.any([stopped, silence.signal]) });
    if (answer.body === null) return ended;
    log.value = []; // the last entries come again
    for await (const { event, data } of eventsOf(answer.body, heard)) {
      if (stopped.aborted) break;
      receive(event, data);
      ended = "well";
    }
  } catch (error) {
    if (!isLoss(error)) throw error;
  } finally {
    clearTimeout(timer);
  }
  return ended;
}

function isLoss(error: unknown): boolean {
  return error instanceof ApiError || error instanceof DOMException || error instanceof TypeError;
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
