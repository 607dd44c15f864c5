import { expect, test } from "vitest";
import { type Ended, keepTrying } from "../src/api/retry";
import { EventParser, eventsOf, StreamError } from "../src/api/sse";
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

test("what was known at a moment stays, while the steps go on", () => {
  const history = new StepHistory();
  history.add([step(1), step(2)], 0);
  const then = history.copy();
  history.add([step(3)], 0);
  history.clear();
  expect(then.between(0, 9).map(({ at }) => at)).toEqual([1, 2]);
});

test("a stream that breaks off is told apart from a bug in what reads it", async () => {
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      controller.error(new TypeError("network error"));
    },
  });
  await expect(eventsOf(body).next()).rejects.toThrow(StreamError);
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

test("nothing is left of steps that were cleared, nor of their clock", () => {
  const history = new StepHistory();
  history.add([step(100)], 7);
  history.clear();
  expect(history.isEmpty).toBe(true);
  expect(history.serverTime(10)).toBe(10);
});

test("old steps are forgotten", () => {
  const history = new StepHistory();
  for (let at = 0; at < 2000; at += 1) history.add([step(at)], at);
  expect(history.between(0, 5000).length).toBeLessThan(400);
  expect(history.between(1990, 5000)).toHaveLength(10);
});

/** Return the pauses and the errors of attempts that end so, one after the other. */
async function tried(ends: readonly (Ended | Error)[]): Promise<[number[], unknown[]]> {
  const stopper = new AbortController();
  const pauses: number[] = [];
  const errors: unknown[] = [];
  await keepTrying(
    async () => {
      const end = ends[pauses.length] ?? "badly";
      if (end instanceof Error) throw end;
      return end;
    },
    (error) => errors.push(error),
    stopper.signal,
    async (seconds) => {
      pauses.push(seconds);
      if (pauses.length === ends.length) stopper.abort();
    },
  );
  return [pauses, errors];
}

test("what fails is tried again after longer pauses, which are short again once it has worked", async () => {
  const [pauses, errors] = await tried([
    "badly",
    "badly",
    "badly",
    "badly",
    "badly",
    "badly",
    "well",
  ]);
  expect(pauses).toEqual([0.5, 1, 2, 4, 8, 8, 0.5]);
  expect(errors).toEqual(pauses.map(() => null));
});

test("an error that nobody expected ends one attempt, and not the next ones", async () => {
  const error = new SyntaxError("no JSON");
  expect(await tried([error, error, "well", "badly"])).toEqual([
    [0.5, 1, 0.5, 1],
    [error, error, null, null],
  ]);
});

test("what is stopped within an attempt is not told of, and not tried again", async () => {
  const stopper = new AbortController();
  let n = 0;
  await keepTrying(
    async () => {
      n += 1;
      stopper.abort();
      throw new DOMException("stopped", "AbortError");
    },
    () => expect.unreachable(),
    stopper.signal,
    () => expect.unreachable(),
  );
  expect(n).toBe(1);
});
