import { expect, test } from "vitest";
import {
  arrivedHistory,
  arrivedLog,
  arrivedModels,
  arrivedState,
  arrivedTrace,
} from "../src/api/arrived";
import type { History, LogEntry, ModelList, State, TokenTrace } from "../src/api/contract";

/** As a server sends it that leaves out what it does not know. */
function sent<T>(value: unknown): T {
  return JSON.parse(JSON.stringify(value)) as T;
}

test("what is left out of a state, or empty, is not known", () => {
  const state = arrivedState(
    sent<State>({
      server: { model: "m", version: "1", state: "loading", doing: "", reason: "", progress: 0.5 },
      stats: { generated_per_s: 2 },
      nodes: [
        { name: "a", ranks: [0], load: 0, findings: [{ text: "warm", cure: "" }] },
        { name: "b", ranks: [] },
      ],
      links: [{ between: ["a", "b"], ranks: [0, 1], wait_s_per_token: 0 }],
      work: [{ id: "1", kind: "cut", name: "n", phase: "", state: "done", error: "", cure: "" }],
    }),
  );
  expect(state.server).toMatchObject({
    doing: null,
    reason: null,
    progress: 0.5,
    n_ranks: null,
    threads: null,
  });
  expect(state.stats).toMatchObject({ generated_per_s: 2, joules_per_token: null });
  expect(state.nodes[0]).toMatchObject({
    load: 0,
    watts: null,
    watts_problem: null,
    throttled_since: null,
    findings: [{ text: "warm", cure: null }],
  });
  expect(state.nodes[1]).toMatchObject({ machine: null, share: null, findings: [] });
  expect(state.links[0]).toMatchObject({ wait_s_per_token: 0, waits: null, errors: null });
  expect(state.work[0]).toMatchObject({ phase: null, error: null, cure: null, total: null });
});

test("a line of the log without a cure has none; a machine without a meter reports no watts", () => {
  const line = {
    n: 1,
    at: 1,
    kind: "engine" as const,
    level: "info" as const,
    text: "ready",
    cure: "",
  };
  expect(arrivedLog([line as LogEntry])[0]).toMatchObject({ cure: null, code: null, facts: null });
  const history = sent<History>({
    every_s: 60,
    points: [{ at: 1, nodes: { a: { throttled: false } } }],
  });
  expect(arrivedHistory(history).points[0]?.joules_per_token).toBeNull();
  expect(arrivedHistory(history).points[0]?.nodes["a"]).toEqual({
    temperature_c: null,
    throttled: false,
    watts: null,
  });
  expect(arrivedTrace(sent<TokenTrace>({ token_s: 1, ranks: [] }))).toMatchObject({
    weights_bytes: null,
  });
});

test("a model's card is read from what was evaluated", () => {
  const evaluation = {
    model: { bits_per_weight: 4.5 },
    divergence: { mean: { value: 0.01 }, agreement: { value: 0.96 } },
  };
  const model = { name: "m", path: "m.gguf", is_served: false };
  const list = arrivedModels(
    sent<ModelList>({
      models: [
        { ...model, card: evaluation },
        { ...model, card: { ...evaluation, divergence: null } },
        { ...model, card: null, tuning: { base: "b", examples: 7, steps: 20 } },
      ],
    }),
  );
  expect(list.models.map(({ card }) => card)).toEqual([
    { bits_per_weight: 4.5, kl: 0.01, same_top_token: 0.96 },
    { bits_per_weight: 4.5, kl: null, same_top_token: null },
    null,
  ]);
  expect(list.models.map(({ tuning }) => tuning?.examples ?? null)).toEqual([null, null, 7]);
});
