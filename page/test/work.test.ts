import { expect, test } from "vitest";
import type { Work } from "../src/api/contract";
import { progress } from "../src/models/WorkList";
import { language } from "../src/preferences";

const CUT: Work = {
  id: "1",
  kind: "cut",
  name: "m.gguf",
  phase: null,
  unit: "bytes",
  done: 1.5e9,
  total: 6e9,
  fraction: 0.25,
  per_s: 3e7,
  rest_s: 150,
  state: "running",
  note: null,
  losses: null,
  error: null,
  cure: null,
  can_stop: true,
};

test("work is told with its phase, its amount, its speed and what is left", () => {
  language.value = "en";
  expect(progress(CUT)).toBe("1.5 GB of 6 GB · 30 MB/s · 2 min 30 s left");
  const part: Work = { ...CUT, unit: "part", done: 0.25, total: 1, phase: "choosing" };
  expect(progress(part)).toBe("choosing types · 25 % · 2 min 30 s left");
  expect(progress({ ...part, unit: "tokens", done: 512, total: 4096, per_s: 80 })).toBe(
    "choosing types · 512 tokens of 4,096 tokens · 80 tokens/s · 2 min 30 s left",
  );
  language.value = "ko";
  expect(progress(part)).toBe("타입 선택 중 · 25% · 2분 30초 남음");
});

test("a tuning is told by its steps", () => {
  language.value = "en";
  const tune: Work = { ...CUT, kind: "tune", unit: "steps", done: 1200, total: 4000, per_s: 3.25 };
  expect(progress(tune)).toBe("1,200 steps of 4,000 steps · 3.3 steps/s · 2 min 30 s left");
  language.value = "ko";
  expect(progress({ ...tune, per_s: 0.05 })).toBe(
    "1,200스텝 / 4,000스텝 · 스텝당 20 s · 2분 30초 남음",
  );
});

test("what has ended has neither a speed nor a phase", () => {
  language.value = "en";
  expect(progress({ ...CUT, state: "stopped", phase: "writing" })).toBe("1.5 GB of 6 GB");
  expect(progress({ ...CUT, unit: "part", state: "done", fraction: 1 })).toBe("");
  expect(progress({ ...CUT, done: null, total: null, per_s: null, rest_s: null })).toBe("");
});
