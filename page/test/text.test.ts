import { expect, test } from "vitest";
import { bytes, figure, long, percent, short } from "../src/format";
import { chooseLanguage, language } from "../src/preferences";
import { en } from "../src/text/en";
import { ko } from "../src/text/ko";

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

test("both languages have the same texts, and none is empty", () => {
  const korean = leaves(ko);
  expect([...korean.keys()].sort()).toEqual([...leaves(en).keys()].sort());
  for (const [path, value] of [...leaves(en), ...korean]) {
    expect(typeof value, path).toMatch(/^(string|function)$/);
    expect(value, path).not.toBe("");
  }
});

test("Korean is Korean: no text was left in English", () => {
  const english = leaves(en);
  for (const [path, value] of leaves(ko)) {
    if (typeof value === "string" && !SAME.has(path))
      expect(value, path).not.toBe(english.get(path));
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
});
