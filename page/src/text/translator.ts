/**
 * Says in another language what a server says in English: by its code and facts, or by what the text looks like.
 * What it does not know stays English. Pure.
 */

/** A sentence of the server. code: null if it is known by its text alone. */
export interface Said {
  readonly text: string;
  readonly cure: string | null;
  readonly code: string | null;
  readonly facts: Facts | null;
}

export type Facts = Readonly<Record<string, unknown>>;

/** A language's sentences, as sentences.ko.json has them; values stand in curly brackets. */
export interface Sentences {
  /** By code. */
  readonly said: Readonly<Record<string, { readonly text: string; readonly cure?: string }>>;
  /** By the word with which a router gives its reason. */
  readonly routes: Readonly<Record<string, string>>;
  /** By the English text. */
  readonly texts: Readonly<Record<string, string>>;
  readonly phrases: Readonly<Record<string, string>>;
}

interface Pattern {
  readonly found: RegExp;
  readonly numbers: readonly string[];
  readonly translation: string;
}

const LONGEST = 2000;
const DEEPEST = 6; // a reason within a reason
const MOST_COLONS = 5;
const LITTLE = 8;
const MOST_KNOWN = 2000;

export class Translator {
  readonly #sentences: Sentences;
  readonly #exact: ReadonlyMap<string, string>;
  readonly #patterns: readonly Pattern[];
  readonly #known = new Map<string, string | null>();

  constructor(sentences: Sentences) {
    this.#sentences = sentences;
    const all = [...Object.entries(sentences.texts), ...Object.entries(sentences.phrases)];
    this.#exact = new Map(all.filter(([english]) => !BLANK.test(english)));
    this.#patterns = all
      .filter(([english]) => BLANK.test(english))
      .sort(([one], [other]) => lengthOf(other) - lengthOf(one)) // the more is said, the surer
      .map(([english, translation]) => patternOf(english, translation));
  }

  /** Return a sentence, and what cures it. */
  said({ text, cure, code, facts }: Said): { text: string; cure: string | null } {
    const known = code === null ? undefined : this.#sentences.said[code];
    if (known === undefined) {
      return { text: this.text(text), cure: cure === null ? null : this.text(cure) };
    }
    return {
      text: this.#filled(known.text, facts ?? {}),
      cure: cure === null ? null : this.#filled(known.cure ?? cure, facts ?? {}),
    };
  }

  /** Return why a router has chosen. */
  route(reason: string): string {
    return this.#sentences.routes[reason] ?? reason;
  }

  /** Return a text, or a problem and its cure that a colon joins. */
  text(english: string): string {
    return this.#translated(english, DEEPEST) ?? english;
  }

  #filled(sentence: string, facts: Facts): string {
    return filled(sentence, (name) => {
      const value = facts[name];
      if (name === "route") return this.route(String(value ?? "?"));
      const values = Array.isArray(value) ? value : [value ?? "?"];
      return values.map((each) => this.text(String(each))).join(", ");
    });
  }

  #translated(english: string, depth: number): string | null {
    if (english.length > LONGEST || depth === 0 || !/[A-Za-z]{2}/.test(english)) return null;
    const known = this.#known.get(english);
    if (known !== undefined) return known;
    const found =
      this.#exact.get(english) ??
      this.#matched(english, depth) ??
      this.#joined(english, depth) ??
      this.#listed(english, depth);
    if (this.#known.size > MOST_KNOWN) this.#known.clear();
    this.#known.set(english, found);
    return found;
  }

  #matched(english: string, depth: number): string | null {
    for (const { found, numbers, translation } of this.#patterns) {
      const values = found.exec(english)?.slice(1);
      if (values === undefined) continue;
      return filled(translation, (number) => {
        const value = values[numbers.indexOf(number)] ?? "";
        return this.#translated(value, depth - 1) ?? value;
      });
    }
    return null;
  }

  /** Return a list whose parts are all known. */
  #listed(english: string, depth: number): string | null {
    const parts = english.split(", ");
    if (parts.length < 2) return null;
    const known = parts.map((part) => this.#translated(part, depth - 1));
    return known.every((part) => part !== null) ? known.join(", ") : null;
  }

  /** Return a problem and what stands behind a colon, its reason or its cure: best if the problem is known. */
  #joined(english: string, depth: number): string | null {
    const splits = splitsOf(english);
    for (const [problem, rest] of splits) {
      const known = this.#translated(problem, depth - 1);
      if (known !== null) return joined(known, this.#translated(rest, depth - 1) ?? rest);
    }
    for (const [problem, rest] of splits) {
      const more = this.#translated(rest, depth - 1);
      if (more !== null) return joined(problem, more);
    }
    return null;
  }
}

/** Return what stands before and behind each colon. */
function splitsOf(english: string): readonly (readonly [string, string])[] {
  const parts = english.split(": ").slice(0, MOST_COLONS + 1);
  return parts.slice(1).map((_, i) => {
    const problem = parts.slice(0, i + 1).join(": ");
    return [problem, english.slice(problem.length + 2)] as const;
  });
}

function joined(problem: string, more: string): string {
  return `${problem}${problem.endsWith(".") ? "" : ":"} ${more}`;
}

const BLANK = /\{\w+\}/;
const BLANKS = /\{(\w+)\}/g;

function lengthOf(english: string): number {
  return english.replace(BLANKS, "").length;
}

/** Two blanks side by side cannot be told apart: the first has it all. {w1} is a word. */
function patternOf(english: string, translation: string): Pattern {
  const numbers = [...english.matchAll(BLANKS)].map(([, number]) => number ?? "");
  const parts = english.split(BLANK).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const isShort = parts[0] === "" && lengthOf(english) < LITTLE; // as in "4 ranks": else it were everywhere
  const source = parts.reduce((whole, part, i) => {
    const isBeforeBlank = part === "" && i < parts.length - 1;
    const any = isBeforeBlank ? "[^]*" : "[^]*?";
    return `${whole}(${isShort || numbers[i - 1]?.startsWith("w") === true ? "\\S+" : any})${part}`;
  });
  return { found: new RegExp(`^${source}$`), numbers, translation };
}

/** Put values into the blanks; within another sentence a sentence has no full stop. */
function filled(sentence: string, valueOf: (name: string) => string): string {
  return sentence.replace(BLANKS, (blank: string, name: string, at: number) => {
    const value = valueOf(name);
    const isLast = at + blank.length === sentence.length;
    return isLast ? value : value.replace(/([가-힣)])\.$/, "$1");
  });
}
