/**
 * The live feed: what the server says of itself, as signals.
 * Reconnects by itself, and says at once when the connection is lost.
 */
import { effect, signal, untracked } from "@preact/signals";
import { arrivedLog, arrivedState } from "./arrived";
import { ApiError, ask } from "./client";
import type { LogEntry, State, Step } from "./contract";
import { isSeen } from "../parts/seen";
import { isKeyWanted, keyChanges } from "./key";
import { type Ended, keepTrying } from "./retry";
import { eventsOf, type ServerEvent, StreamError } from "./sse";
import { StepHistory } from "./steps";

export type Connection = "connecting" | "live" | "lost";

const SILENCE_S = 4; // a state comes twice a second
const MOST_LOG_ENTRIES = 1000;

export const connection = signal<Connection>("connecting");
export const state = signal<State | null>(null);
export const log = signal<readonly LogEntry[]>([]);
export const steps = new StepHistory();

/** Counts how often the network came back: then the pause between two attempts is cut short. */
const returns = signal(0);

/** Follow the feed for as long as the page is open and somebody may be looking. */
export function followFeed(): void {
  window.addEventListener("online", () => (returns.value += 1));
  isKeyWanted.subscribe((isWanted) => isWanted && forget());
  effect(() => {
    void [keyChanges.value, returns.value]; // each begins anew
    if (!isSeen.value || isKeyWanted.value) return undefined;
    const stopper = new AbortController();
    untracked(() => void keepTrying(() => readOnce(stopper.signal), lost, stopper.signal, sleep));
    return () => stopper.abort();
  });
}

/** Keep nothing that a key let be seen. */
function forget(): void {
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
    const receive = receiver();
    for await (const event of eventsOf(answer.body, heard)) {
      if (stopped.aborted) break;
      receive(event);
      ended = "well";
    }
  } catch (error) {
    if (!isLoss(error)) throw error;
  } finally {
    clearTimeout(timer);
  }
  return ended;
}

/** Whether an error is of the connection; any other is a bug, of the server's or of ours. */
function isLoss(error: unknown): boolean {
  return error instanceof ApiError || error instanceof DOMException || error instanceof StreamError;
}

/** Return what takes in the events of one connection; it begins with the last lines of the log. */
function receiver(): (event: ServerEvent) => void {
  let entries: readonly LogEntry[] = [];
  return ({ event, data }) => {
    if (event === "log") {
      entries = [...entries, ...arrivedLog(JSON.parse(data) as LogEntry[])].slice(
        -MOST_LOG_ENTRIES,
      );
      log.value = entries;
    } else if (event === "state") {
      if (entries.length === 0) log.value = entries; // those of a connection before
      state.value = arrivedState(JSON.parse(data) as State);
      connection.value = "live";
    } else if (event === "steps") {
      steps.add(JSON.parse(data) as Step[]);
    }
  };
}
