/** What is wrong with the machines, in sentences with their cures. Pure. */
import type { ClusterNode, Finding, State } from "../api/contract";
import { machine, moment } from "../format";
import type { Texts } from "../text/texts";
import type { Said } from "../text/translator";

const THROTTLED = "throttled_now";
const NO_ANSWER = "no_answer";

export interface Problem {
  readonly text: string;
  readonly cure: string | null;
}

/** Says a sentence of the server in the page's language. */
export type Tell = (said: Said) => Problem;

/** Return what the server says of its own failure, and then of each machine. */
export function problemsOf(
  { server, nodes }: State,
  t: Texts["cluster"],
  tell: Tell,
): readonly Problem[] {
  const own = server.reason === null ? [] : [tell(bare(server.reason))];
  if (server.state === "restarting") own.push({ text: t.restarting, cure: null });
  return [...own, ...nodes.flatMap((node) => ofMachine(node, t, tell))];
}

function ofMachine(node: ClusterNode, t: Texts["cluster"], tell: Tell): readonly Problem[] {
  return [
    ...downOf(node, t, tell),
    ...throttledOf(node, t, tell),
    ...findingsOf(node).map((found) => {
      const { text, cure } = tell(found);
      return { text: t.reported(machine(node.name), text), cure };
    }),
  ];
}

function downOf(
  { name, is_up, problem, findings }: ClusterNode,
  t: Texts["cluster"],
  tell: Tell,
): Problem[] {
  if (is_up && problem === null) return [];
  const found = (findings ?? []).find(({ code }) => code === NO_ANSWER) ?? bare(problem ?? "");
  const { text, cure } = tell(found);
  if (is_up) return [{ text: t.reported(machine(name), text), cure }];
  if (text.startsWith(name)) return [{ text, cure }]; // that says it
  return [{ text: `${t.isDown(machine(name))} ${text}`.trim(), cure }];
}

/** A machine has one cause or several. */
function throttledOf(node: ClusterNode, t: Texts["cluster"], tell: Tell): Problem[] {
  const { name, throttled, throttled_since: since } = node;
  if (throttled !== true) return [];
  const causes = (node.findings ?? []).flatMap(({ code, facts }) =>
    code === THROTTLED && facts !== null ? [tell(bare(String(facts["why"]))).text] : [],
  );
  const why = causes.length === 0 ? "" : ` (${causes.join(", ")})`;
  const called = machine(name);
  const text =
    since === null ? t.isThrottled(called, why) : t.throttledSince(called, moment(since), why);
  return [{ text, cure: t.throttledCure }];
}

/** Return the findings that are not said already. */
function findingsOf({ findings, throttled }: ClusterNode): readonly Finding[] {
  return (findings ?? []).filter(
    ({ code }) => code !== NO_ANSWER && !(throttled === true && code === THROTTLED),
  );
}

function bare(text: string): Said {
  return { text, cure: null, code: null, facts: null };
}
