import { expect, test } from "vitest";
import type { ClusterNode, Finding, Link, State, Step, TokenTrace } from "../src/api/contract";
import { changesBetween } from "../src/cluster/changes";
import { NODE_RADIUS } from "../src/cluster/drawing";
import { problemsOf } from "../src/cluster/problems";
import { en } from "../src/text/en";
import { ko } from "../src/text/ko";
import sentences from "../src/text/sentences.ko.json";
import { type Facts, Translator } from "../src/text/translator";
import { drawingOf } from "../src/cluster/layout";
import { linePath, marksOf, scaleOf, stretchesOf } from "../src/log/chart";
import { meansOf, stepAt, stripOf, ticksOf, type Window } from "../src/now/strip";
import {
  barsOf,
  chosenIn,
  expertCells,
  layersOf,
  meanTimes,
  spanOf,
  total,
} from "../src/token/anatomy";

const STEPS: Step[] = [
  {
    at: 10.1,
    n_tokens: 1,
    n_prompt: 0,
    ranks: [
      [0.06, 0.04, 0, 100],
      [0.1, 0, 0, 100],
    ],
  },
  {
    at: 10.3,
    n_tokens: 9,
    n_prompt: 8,
    ranks: [
      [0.1, 0.1, 0, 300],
      [0.2, 0, 0, 300],
    ],
  },
];
const WIDE: Window = { from_s: 10, until_s: 11, width_px: 1000 };

test("steps that are wide enough are drawn one by one, computing before waiting", () => {
  const { isApart, lanes } = stripOf(STEPS, 2, WIDE);
  expect(isApart).toBe(true);
  const [compute, sync] = lanes[0] ?? [];
  expect(compute).toMatchObject({ kind: "compute", top: 0, height: 1 });
  expect(compute?.x).toBeCloseTo(0);
  expect(compute?.width).toBeCloseTo(60);
  expect(sync?.x).toBeCloseTo(60);
  expect(lanes[1]?.some(({ kind }) => kind === "sync")).toBe(false);
  expect(lanes[0]?.filter(({ kind }) => kind === "prompt")).toHaveLength(1);
});

test("columns of short steps add up to the time that was computed and waited", () => {
  const window = { from_s: 10, until_s: 110, width_px: 1000 };
  const { isApart, lanes } = stripOf(STEPS, 1, window);
  expect(isApart).toBe(false);
  const seconds = (kind: string): number =>
    (lanes[0] ?? [])
      .filter((bar) => bar.kind === kind)
      .reduce((sum, { height }) => sum + height, 0) * 0.4;
  expect(seconds("compute")).toBeCloseTo(0.16);
  expect(seconds("sync")).toBeCloseTo(0.14);
});

test("a column keeps its height while it moves", () => {
  const heights = (from_s: number): number[] =>
    (stripOf(STEPS, 1, { from_s, until_s: from_s + 100, width_px: 1000 }).lanes[0] ?? []).map(
      ({ height }) => height,
    );
  expect(heights(9.97)).toEqual(heights(9.9));
});

test("no rank and no step make an empty strip", () => {
  expect(stripOf([], 2, WIDE).lanes).toEqual([[], []]);
  expect(meansOf([], 1)).toEqual([{ compute_s: 0, sync_s: 0, idle_s: 0, bytes_sent: 0 }]);
});

test("means, the step at a time, and round marks", () => {
  expect(meansOf(STEPS, 2)[0]?.bytes_sent).toBe(200);
  expect(stepAt(STEPS, 10.2)).toBe(STEPS[1]);
  expect(stepAt(STEPS, 10.5)).toBeNull();
  expect(ticksOf({ from_s: 0.3, until_s: 5.3, width_px: 1 }, 5)).toEqual([1, 2, 3, 4, 5]);
});

function node(name: string, is_root = false, is_up = true): ClusterNode {
  return {
    name,
    machine: null,
    is_root,
    is_up,
    problem: null,
    ranks: [0],
    share: 0.5,
    cpu: null,
    weights_bytes: null,
    kv_bytes: null,
    peak_bytes: null,
    memory_bytes: null,
    available_bytes: null,
    temperature_c: null,
    throttled: null,
    throttled_since: null,
    wait_s_per_token: null,
    watts: null,
    watts_of: null,
    watts_problem: null,
    clock_mhz: null,
    load: null,
    disk_free_bytes: null,
    findings: null,
  };
}

function mesh(n: number): [ClusterNode[], Link[]] {
  const nodes = Array.from({ length: n }, (_, i) => node(`n${i}`, i === n - 1));
  const links = nodes.flatMap(({ name: a }, i) =>
    nodes.slice(i + 1).map(({ name: b }, j): Link => ({
      between: [a, b],
      ranks: [i, i + j + 1],
      waits: null,
      mbit_per_s: 900,
      round_trip_us: 200,
      wait_s_per_token: 0.001 * (i + j),
      wire_s_per_token: 0.001,
      errors: 0,
    })),
  );
  return [nodes, links];
}

test.each([1, 2, 3, 4, 5, 8, 12])(
  "%i machines lie within the drawing and apart, on a phone too",
  (n) => {
    for (const width of [300, 420, 760, 1300]) {
      const { nodes, height } = drawingOf(...mesh(n), width);
      expect(nodes).toHaveLength(n);
      nodes.forEach((a, i) => {
        expect(a.x).toBeGreaterThanOrEqual(NODE_RADIUS);
        expect(a.x).toBeLessThanOrEqual(width - NODE_RADIUS);
        expect(a.y + NODE_RADIUS).toBeLessThanOrEqual(height);
        if (n > 8) return; // a dozen on a phone may touch
        for (const b of nodes.slice(i + 1)) {
          expect(Math.hypot(a.x - b.x, a.y - b.y)).toBeGreaterThan(2 * NODE_RADIUS);
        }
      });
    }
  },
);

test("the root comes first, the longest wait is widest and has a label", () => {
  const { nodes, links } = drawingOf(...mesh(4), 900);
  expect(nodes[0]?.node.is_root).toBe(true);
  const last = links.at(-1);
  expect(last?.strength).toBe(1);
  expect(last?.label).not.toBeNull();
  expect(Math.max(...links.map(({ from_px }) => from_px))).toBe(last?.from_px);
});

test("a band is wide where a machine waits, and narrow at the one that it waits for", () => {
  const [nodes, links] = mesh(2);
  const drawn = (waits: number | null): number[] =>
    drawingOf(
      nodes,
      links.map((link) => ({ ...link, waits, wait_s_per_token: 0.01 })),
      900,
    ).links.flatMap(({ from_px, to_px }) => [from_px, to_px]);
  const [wide = 0, narrow = 0] = drawn(0);
  expect(wide).toBeGreaterThan(2 * narrow);
  expect(drawn(1)).toEqual([narrow, wide]);
  expect(drawn(null)).toEqual([wide, wide]);
});

test("labels do not cover each other", () => {
  const { links } = drawingOf(...mesh(8), 900);
  const labels = links.flatMap(({ label }) => label ?? []);
  expect(labels.length).toBeGreaterThan(2);
  labels.forEach((a, i) => {
    for (const b of labels.slice(i + 1))
      expect(Math.abs(a.x - b.x) >= 68 || Math.abs(a.y - b.y) >= 24).toBe(true);
  });
});

test("joins and losses are told apart", () => {
  const before = [node("a"), node("b"), node("c", false, false)];
  const after = [node("a"), node("b", false, false), node("c"), node("d")];
  expect(
    changesBetween(before, after.slice(1), 1).map(({ kind, name }) => `${kind} ${name}`),
  ).toEqual(["lost b", "back c", "joined d", "left a"]);
  expect(changesBetween(before, before, 1)).toEqual([]);
});

test("a machine is the same one while its ranks become known; with several it is told of once", () => {
  const loading = [{ ...node("vm"), machine: "vm", ranks: [] }];
  const ready = [0, 1].map((rank) => ({
    ...node(`vm, rank ${rank}`),
    machine: "vm",
    ranks: [rank],
  }));
  expect(changesBetween(loading, ready, 1)).toEqual([]);
  const down = ready.map((each) => ({ ...each, is_up: false }));
  expect(changesBetween(ready, down, 1)).toEqual([{ at: 1, kind: "lost", name: "vm" }]);
  expect(changesBetween(down, loading, 1)).toEqual([{ at: 1, kind: "back", name: "vm" }]);
  expect(changesBetween(ready, [], 1)).toEqual([{ at: 1, kind: "left", name: "vm" }]);
});

function finding(code: string, text: string, cure: string, facts: Facts): Finding {
  return { code, text, cure, facts };
}

test("each problem of a machine is said once, with its name and its cure", () => {
  const now = {
    server: { reason: null },
    nodes: [
      {
        ...node("a"),
        throttled: true,
        findings: [
          finding("throttled_now", "throttled: under-voltage", "x", { why: "under-voltage" }),
          finding("hot_now", "84 °C", "cool it", { temperature_c: 84 }),
        ],
      },
      {
        ...node("b", false, false),
        problem: "no route",
        findings: [finding("no_answer", "no route", "see", { reason: "no route" })],
      },
    ],
  };
  const state = now as unknown as State;
  expect(problemsOf(state, en.cluster, (said) => said)).toMatchObject([
    { text: "a is slow: throttled (under-voltage).", cure: en.cluster.throttledCure },
    { text: "a: 84 °C", cure: "cool it" },
    { text: "b is down. no route", cure: "see" },
  ]);
  const translator = new Translator(sentences);
  expect(problemsOf(state, ko.cluster, (said) => translator.said(said))).toEqual([
    { text: "a 속도 저하: 스로틀링 상태입니다 (전압 부족).", cure: ko.cluster.throttledCure },
    { text: "a: 온도가 84 °C입니다.", cure: sentences.said.hot_now.cure },
    { text: "b 응답이 없습니다. no route", cure: sentences.said.no_answer.cure },
  ]);
});

const TRACE: TokenTrace = {
  token_s: 10,
  n_layers: 2,
  n_ranks: 2,
  sums: 2,
  bytes_sent: 8,
  weights_bytes: null,
  n_experts: null,
  experts: null,
  parts: [],
  ranks: [
    {
      node: "a",
      intervals: [
        ["attention", 1, 3, 0],
        ["wait", 3, 5, 0],
        ["feed_forward", 5, 9, 1],
        ["head", 9, 10, null],
      ],
    },
    {
      node: "b",
      intervals: [
        ["attention", 1, 5, 0],
        ["feed_forward", 5, 8, 1],
        ["wait", 8, 9, 1],
        ["head", 9, 10, null],
      ],
    },
  ],
};

test("a token's parts are means of the ranks, and its layers add up", () => {
  expect(meanTimes(TRACE).get("attention")).toBe(3);
  expect([...meanTimes(TRACE).keys()]).toEqual(["attention", "feed_forward", "head", "wait"]);
  expect(layersOf(TRACE).map(({ layer, times }) => [layer, total(times)])).toEqual([
    [0, 4],
    [1, 4],
  ]);
  expect(spanOf(TRACE, 1)).toEqual({ begun: 5, ended: 9 });
  expect(spanOf(TRACE, 7)).toEqual({ begun: 0, ended: 10 });
});

test("bars of a span are cut at its ends", () => {
  expect(barsOf(TRACE.ranks[0]?.intervals ?? [], { begun: 2, ended: 6 }, 400)).toEqual([
    { part: "attention", x: 0, width: 100 },
    { part: "wait", x: 100, width: 200 },
    { part: "feed_forward", x: 300, width: 100 },
  ]);
});

test("experts are told once for ranks that agree, and each has its cell", () => {
  const experts = [
    [[], [1, 3]],
    [[], [1, 3]],
  ];
  const mixture = { ...TRACE, n_experts: 4, experts };
  expect(chosenIn(mixture, 0)).toEqual([]);
  expect(chosenIn(mixture, 1)).toEqual([{ ranks: [0, 1], experts: [1, 3] }]);
  expect(chosenIn({ ...mixture, experts: [[[0]], [[2]]] }, 0)).toHaveLength(2);
  expect(expertCells(mixture, 1, 8)).toBe("M1 8h1v8h-1zM1 24h1v8h-1z");
  expect(chosenIn(TRACE, 1)).toEqual([]);
  expect(expertCells(TRACE, 1, 8)).toBe("");
});

const FRAME = { from: 0, until: 600, low: 0, high: 10, width: 600, height: 100 };

test("a line breaks where nothing was recorded, and where a value is missing", () => {
  const at = [0, 60, 120, 400, 460];
  const path = linePath(
    at.map((each) => ({ at: each, value: 5 })),
    FRAME,
    60,
  );
  expect(path.match(/M/g)).toHaveLength(2);
  const holes = linePath(
    at.slice(0, 3).map((each) => ({ at: each, value: each === 60 ? null : 5 })),
    FRAME,
    60,
  );
  expect(holes.match(/M/g)).toHaveLength(2);
});

test("scales are round and hold their values", () => {
  expect(scaleOf([3, 71], true)).toEqual([0, 50, 100]);
  expect(scaleOf([], true)).toEqual([0, 1]);
  const marks = scaleOf([44.2, 83.9], false);
  expect(marks[0]).toBeLessThanOrEqual(44.2);
  expect(marks.at(-1)).toBeGreaterThanOrEqual(83.9);
  expect(scaleOf([5, 5], false).length).toBeGreaterThan(1);
});

test("full hours, minutes of a short time, and stretches", () => {
  expect(marksOf(1_000_000, 1_086_400, 4)).toHaveLength(4);
  expect(marksOf(1_000_000, 1_000_600, 5)).toHaveLength(5);
  const flags = [0, 60, 120, 180, 600].map((at) => ({ at, isSo: at !== 120 }));
  expect(stretchesOf(flags, 60)).toEqual([
    [-60, 180],
    [540, 600],
  ]);
});
