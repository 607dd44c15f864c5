/** What is wrong with the machines, in sentences with their cures. Pure. */
import type { ClusterNode, Finding, State } from "../api/contract";
import { moment } from "../format";
import type { Texts } from "../text/texts";

const THROTTLED = "throttled:"; // begins a finding that says why

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
  return nodes.flatMap((node) => [
    ...downOf(node, t),
    ...throttledOf(node, t),
    ...findingsOf(node).map(({ text, cure }) => ({ text: t.reported(node.name, text), cure })),
  ]);
}

function downOf({ name, is_up, problem, findings }: ClusterNode, t: Texts["cluster"]): Problem[] {
  if (is_up && problem === null) return [];
  const cure = findings?.find(({ text }) => text === problem)?.cure ?? null;
  if (is_up) return [{ text: t.reported(name, problem ?? ""), cure }];
  return [{ text: `${t.isDown(name)} ${problem ?? ""}`.trim(), cure }];
}

function throttledOf(
  { name, throttled, throttled_since: since, findings }: ClusterNode,
  t: Texts["cluster"],
): Problem[] {
  if (throttled !== true) return [];
  const why = findings
    ?.find(({ text }) => text.startsWith(THROTTLED))
    ?.text.slice(THROTTLED.length);
  const said = since === null ? t.isThrottled(name) : t.throttledSince(name, moment(since));
  return [{ text: why === undefined ? said : `${said} (${why.trim()})`, cure: t.throttledCure }];
}

/** Return the findings that are not said already. */
function findingsOf({ findings, problem, throttled }: ClusterNode): readonly Finding[] {
  return (findings ?? []).filter(
    ({ text }) => text !== problem && !(throttled === true && text.startsWith(THROTTLED)),
  );
}
