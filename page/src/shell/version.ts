/** Whether the server was replaced by another version while the page was open: then the two may not fit together. */
import { effect, signal } from "@preact/signals";
import { state } from "../api/feed";

export const isOutdated = signal(false);

export function followVersion(): void {
  let first: string | null = null;
  effect(() => {
    const version = state.value?.server.version;
    if (version === undefined) return;
    first ??= version;
    isOutdated.value = version !== first;
  });
}
