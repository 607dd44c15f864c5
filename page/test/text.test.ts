import { expect, test } from "vitest";
import { bytes, clock, count, figure, long, machine, percent, short } from "../src/format";
import { keyName } from "../src/now/key_name";
import { chooseLanguage, language } from "../src/preferences";
import { en } from "../src/text/en";
import { ko } from "../src/text/ko";
import { TAUGHT } from "../src/text/lessons";

type Leaves = Map<string, unknown>;

function leaves(value: unknown, path = "", found: Leaves = new Map()): Leaves {
  if (typeof value === "object" && value !== null) {
    for (const [key, inner] of Object.entries(value)) leaves(inner, `${path}.${key}`, found);
  } else {
    found.set(path, value);
  }
  return found;
}

/** Names, units and keys that are the same in both languages. */
const SAME = new Set([".now.perS", ".shell.api", ".models.perS", ".chat.figures"]);

const ENGLISH = leaves({ ...en, ...TAUGHT.en });
const KOREAN = leaves({ ...ko, ...TAUGHT.ko });

test("both languages have the same texts, and none is empty", () => {
  expect([...KOREAN.keys()].sort()).toEqual([...ENGLISH.keys()].sort());
  for (const [path, value] of [...ENGLISH, ...KOREAN]) {
    expect(typeof value, path).toMatch(/^(string|function)$/);
    expect(value, path).not.toBe("");
  }
});

test("Korean is Korean: no text was left in English", () => {
  for (const [path, value] of KOREAN) {
    if (typeof value === "string" && !SAME.has(path))
      expect(value, path).not.toBe(ENGLISH.get(path));
  }
});

test("the language is what was chosen, else the first wanted one that there is", () => {
  expect(chooseLanguage("ko", ["en"])).toBe("ko");
  expect(chooseLanguage(null, ["de-DE", "ko-KR", "en"])).toBe("ko");
  expect(chooseLanguage("xx", [])).toBe("en");
});

test("numbers are as people read them", () => {
  language.value = "en";
  expect([1234, 56.78, 8.94, 0.0123, 0].map(figure)).toEqual([
    "1,234",
    "56.8",
    "8.9",
    "0.012",
    "0",
  ]);
  expect([0.5, 0.031, 0.0001, 0, 1].map(percent)).toEqual([
    "50 %",
    "3.1 %",
    "< 0.1 %",
    "0 %",
    "100 %",
  ]);
  expect([512, 4.7e9].map(bytes)).toEqual(["512 B", "4.7 GB"]);
  expect([0.00024, 0.0018, 2.4, 0].map(short)).toEqual(["240 µs", "1.8 ms", "2.4 s", "0 ms"]);
  expect([42, 185, 7800, 270000].map(long)).toEqual(["42 s", "3 min 5 s", "2 h 10 min", "3 d 3 h"]);
  expect([figure(null), short(NaN), percent(Infinity), bytes(null)]).toEqual(["–", "–", "–", "–"]);
  language.value = "ko";
  expect(long(185)).toBe("3분 5초");
  language.value = "en";
});

test("a machine's rank is said in the language, and whose a request is without a sign", () => {
  expect([machine("vm, rank 1"), machine("pi-3")]).toEqual(["vm, rank 1", "pi-3"]);
  language.value = "ko";
  expect([machine("vm, rank 1"), machine("pi-3")]).toEqual(["vm, 랭크 1", "pi-3"]);
  expect([keyName("anna"), keyName("@127.0.0.1"), keyName(null)]).toEqual([
    "anna",
    "127.0.0.1",
    "키 없음",
  ]);
  language.value = "en";
});

test("numbers and times of day are those of the browser's own tables, in both languages", () => {
  const values = [
    0, 1, 12, 999.949, 999.95, 1234567.89, 99.96, 100.4, 0.996, 0.0999, 0.00001234, -3.25,
  ];
  for (const tongue of ["en", "ko"] as const) {
    language.value = tongue;
    for (const value of values) {
      const digits =
        Math.abs(value) < 1
          ? { maximumSignificantDigits: 2 }
          : { maximumFractionDigits: Math.abs(value) >= 100 ? 0 : 1 };
      expect(figure(value)).toBe(value.toLocaleString(tongue, digits));
      expect(count(value)).toBe(value.toLocaleString(tongue, { maximumFractionDigits: 0 }));
    }
    const now = {
      hour: "2-digit",
      minute: "2-digit",
      second: "2-digit",
      hourCycle: "h23",
    } as const;
    for (const at of [0, 1e9, 1.7e9 + 0.9]) {
      expect(clock(at, true)).toBe(new Date(at * 1000).toLocaleTimeString(tongue, now));
    }
  }
});
