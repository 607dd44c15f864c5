/** Asks for the trace of a token, and keeps the last one. */
import { signal } from "@preact/signals";
import { arrivedTrace } from "../api/arrived";
import { ApiError, postJson } from "../api/client";
import type { TokenPart, TokenTrace } from "../api/contract";

export const trace = signal<TokenTrace | null>(null);
export const isTracing = signal(false);
export const problem = signal<ApiError | null>(null);

/** What is looked at: a layer, or the whole token. */
export const chosenLayer = signal<number | null>(null);
export const chosenPart = signal<TokenPart | null>(null);
/** What the pointer is on; it goes before what is chosen. */
export const pointedPart = signal<TokenPart | null>(null);

export async function takeTrace(): Promise<void> {
  if (isTracing.value) return;
  isTracing.value = true;
  problem.value = null;
  try {
    trace.value = arrivedTrace(await postJson<TokenTrace>("page/trace", {}));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.value = error;
  } finally {
    isTracing.value = false;
  }
}
