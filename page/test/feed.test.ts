import { expect, test } from "vitest";
import { EventParser, eventsOf } from "../src/api/sse";
import { StepHistory } from "../src/api/steps";
import type { Step } from "../src/api/contract";

const STREAM =
  ': hello\n\nevent: state\ndata: {"a":1}\n\ndata: one\ndata: two\n\nevent: log\r\ndata: 두레\r\n\r\nid: 3\n\n';
const EVENTS = [
  { event: "state", data: '{"a":1}' },
  { event: "message", data: "one\ntwo" },
  { event: "log", data: "두레" },
];

test("events are the same wherever the stream is cut", () => {
  for (let size = 1; size < STREAM.length; size += 1) {
    const parser = new EventParser();
    const found = [];
    for (let at = 0; at < STREAM.length; at += size)
      found.push(...parser.push(STREAM.slice(at, at + size)));
    expect(found).toEqual(EVENTS);
  }
});

test("bytes may be cut within a letter, and every piece is heard of", async () => {
  const bytes = new TextEncoder().encode(STREAM);
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  let pieces = 0;
  const found = [];
  for await (const event of eventsOf(body, () => (pieces += 1))) found.push(event);
  expect(found).toEqual(EVENTS);
  expect(pieces).toBe(bytes.length);
});

function step(at: number): Step {
  return { at, n_tokens: 1, n_prompt: 0, ranks: [[0.1, 0.05, 0, 10]] };
}

test("steps are found by time", () => {
  const history = new StepHistory();
  history.add([step(1), step(2), step(3)], 0);
  history.add([], 0);
  expect(history.between(2, 3).map(({ at }) => at)).toEqual([2]);
  expect(history.between(0, 9)).toHaveLength(3);
  expect(history.between(4, 9)).toHaveLength(0);
});

test("the server's clock is known by the quickest arrival", () => {
  const history = new StepHistory();
  history.add([step(100)], 7); // 93 ahead, less what the way took
  history.add([step(101)], 7.5);
  history.add([step(102)], 9.9);
  expect(history.serverTime(10)).toBeCloseTo(103.5);
});

test("a viewer's clock that is set anew is followed within seconds, forwards and backwards", () => {
  for (const jump_s of [3600, -3600]) {
    const history = new StepHistory();
    for (let at = 100; at < 120; at += 1) history.add([step(at)], at - 93);
    for (let at = 120; at < 135; at += 1) history.add([step(at)], at - 93 + jump_s);
    expect(history.serverTime(42 + jump_s)).toBeCloseTo(135);
  }
});

test("old steps are forgotten", () => {
  const history = new StepHistory();
  for (let at = 0; at < 2000; at += 1) history.add([step(at)], at);
  expect(history.between(0, 5000).length).toBeLessThan(400);
  expect(history.between(1990, 5000)).toHaveLength(10);
});
