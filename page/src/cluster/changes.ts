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

/** Return what has happened to machines; which ranks each has does not matter. */
export function changesBetween(
  before: readonly ClusterNode[],
  after: readonly ClusterNode[],
  at: number,
): readonly Change[] {
  const old = machinesOf(before);
  const now = machinesOf(after);
  const found = [...now].flatMap(([key, { name, isUp }]): Change[] => {
    const known = old.get(key);
    if (known === undefined) return [{ at, kind: "joined", name }];
    if (known.isUp === isUp) return [];
    return [{ at, kind: isUp ? "back" : "lost", name }];
  });
  const left = [...old].filter(([key]) => !now.has(key));
  return [...found, ...left.map(([, { name }]): Change => ({ at, kind: "left", name }))];
}

interface Machine {
  /** Without a rank, if it has several. */
  readonly name: string;
  readonly isUp: boolean;
}

function machinesOf(nodes: readonly ClusterNode[]): ReadonlyMap<string, Machine> {
  const found = new Map<string, Machine>();
  for (const { machine, name, is_up } of nodes) {
    const key = machine ?? name;
    const other = found.get(key);
    if (other === undefined) found.set(key, { name, isUp: is_up });
    else found.set(key, { name: key, isUp: other.isUp && is_up });
  }
  return found;
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
