/** Which view is shown: the part of the address after `#/`. */
import { signal } from "@preact/signals";

export const VIEWS = ["cluster", "now", "token", "chat", "models", "log"] as const;
export type View = (typeof VIEWS)[number];

function viewOf(hash: string): View {
  const name = hash.replace(/^#\//, "");
  return VIEWS.find((view) => view === name) ?? "cluster";
}

export const view = signal<View>(viewOf(location.hash));

export function followAddress(): void {
  window.addEventListener("hashchange", () => {
    view.value = viewOf(location.hash);
  });
}
