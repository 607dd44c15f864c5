/** Asks for the trace of a token, and keeps the last one. */
import { signal } from "@preact/signals";
import { arrivedTrace } from "../api/arrived";
import { postJson } from "../api/client";
import type { TokenPart, TokenTrace } from "../api/contract";
import { Asking } from "../parts/asking";

export const trace = signal<TokenTrace | null>(null);
const asking = new Asking();
export const { isAsking: isTracing, problem } = asking;

/** What is looked at: a layer, or the whole token. */
export const chosenLayer = signal<number | null>(null);
export const chosenPart = signal<TokenPart | null>(null);
/** What the pointer is on; it goes before what is chosen. */
export const pointedPart = signal<TokenPart | null>(null);

export async function takeTrace(): Promise<void> {
  if (isTracing.value) return;
  await asking.ask(async () => {
    trace.value = arrivedTrace(await postJson<TokenTrace>("page/trace", {}));
  });
}
