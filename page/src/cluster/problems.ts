/** What is wrong with the machines, in sentences with their cures. Pure. */
import type { ClusterNode, State } from "../api/contract";
import { moment } from "../format";
import type { Texts } from "../text/texts";

export interface Problem {
  readonly text: string;
  readonly cure: string | null;
}

/** Return what the server says of its own failure, and then of each machine. */
export function problemsOf({ server, nodes }: State, t: Texts["cluster"]): readonly Problem[] {
  const own = server.reason === null ? [] : [{ text: server.reason, cure: null }];
  return [...own, ...ofMachines(nodes, t)];
}

function ofMachines(nodes: readonly ClusterNode[], t: Texts["cluster"]): readonly Problem[] {
  return nodes.flatMap((node): Problem[] => {
    const { name, is_up, problem, throttled, throttled_since, findings } = node;
    const found: Problem[] = [];
    if (!is_up) found.push({ text: `${t.isDown(name)} ${problem ?? ""}`.trim(), cure: null });
    else if (problem !== null) found.push({ text: t.reported(name, problem), cure: null });
    if (throttled === true) {
      const text =
        throttled_since === null
          ? t.isThrottled(name)
          : t.throttledSince(name, moment(throttled_since));
      found.push({ text, cure: t.throttledCure });
    }
    return [...found, ...(findings ?? []).map(({ text, cure }) => ({ text, cure }))];
  });
}
