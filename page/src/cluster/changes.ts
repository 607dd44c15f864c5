/** What has happened to the machines between two states of the feed. */
import { effect, signal } from "@preact/signals";
import type { ClusterNode } from "../api/contract";
import { state } from "../api/feed";

export type ChangeKind = "joined" | "left" | "lost" | "back";

export interface Change {
  readonly at: number;
  readonly kind: ChangeKind;
  readonly name: string;
}

const MOST = 50;

/** The latest first. */
export const changes = signal<readonly Change[]>([]);

export function changesBetween(
  before: readonly ClusterNode[],
  after: readonly ClusterNode[],
  at: number,
): readonly Change[] {
  const old = new Map(before.map((node) => [node.name, node]));
  const names = new Set(after.map(({ name }) => name));
  const found = after.flatMap(({ name, is_up }): Change[] => {
    const known = old.get(name);
    if (known === undefined) return [{ at, kind: "joined", name }];
    if (known.is_up === is_up) return [];
    return [{ at, kind: is_up ? "back" : "lost", name }];
  });
  const left = before.filter(({ name }) => !names.has(name));
  return [...found, ...left.map(({ name }): Change => ({ at, kind: "left", name }))];
}

/** Collect changes for as long as the page is open, whichever view is shown. */
export function followChanges(): void {
  let known: readonly ClusterNode[] | null = null;
  effect(() => {
    const nodes = state.value?.nodes;
    if (nodes === undefined) return;
    if (known !== null) {
      const found = changesBetween(known, nodes, Date.now() / 1000);
      if (found.length > 0) changes.value = [...found, ...changes.peek()].slice(0, MOST);
    }
    known = nodes;
  });
}
