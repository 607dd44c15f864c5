/** The steps of the last seconds, oldest first, and the server's clock. Knows no picture. */
import type { Step } from "./contract";

const KEPT_S = 60;
const MOST = 20_000;
const GUESS_S = 10; // for which an arrival tells the difference of clocks: either may be set anew

interface Guess {
  readonly at: number;
  readonly ahead_s: number;
}

export class StepHistory {
  #steps: Step[] = [];
  #guesses: readonly Guess[] = [];
  #clockAhead_s = 0;

  /** Take in steps as they arrive; now_s is this machine's clock. */
  add(steps: readonly Step[], now_s = Date.now() / 1000): void {
    const last = steps.at(-1);
    if (last === undefined) return;
    this.#steps.push(...steps);
    this.#guessClock({ at: last.at, ahead_s: last.at - now_s });
    this.#forget(last.at - KEPT_S);
  }

  clear(): void {
    this.#steps = [];
    this.#guesses = [];
    this.#clockAhead_s = 0;
  }

  /** Return what is known now: it stays, while this goes on and forgets. */
  copy(): StepHistory {
    const copied = new StepHistory();
    copied.#steps = [...this.#steps];
    return copied;
  }

  /** Return the server's time, as far as arrivals tell; the newest step's end at the least. */
  serverTime(now_s = Date.now() / 1000): number {
    return now_s + this.#clockAhead_s;
  }

  /** Return the steps that end at from_s or later and end before until_s. */
  between(from_s: number, until_s: number): readonly Step[] {
    return this.#steps.slice(this.#firstFrom(from_s), this.#firstFrom(until_s));
  }

  /** Ranks of the last step; 1 before there is one. */
  get n_ranks(): number {
    return this.#steps.at(-1)?.ranks.length ?? 1;
  }

  get isEmpty(): boolean {
    return this.#steps.length === 0;
  }

  /** The smallest delay of the last seconds is the best guess of the difference of clocks. */
  #guessClock(guess: Guess): void {
    const recent = this.#guesses.filter(({ at }) => Math.abs(guess.at - at) <= GUESS_S);
    this.#guesses = [...recent, guess];
    this.#clockAhead_s = Math.max(...this.#guesses.map(({ ahead_s }) => ahead_s));
  }

  /** Binary search: the index of the first step that ends at `at` or later. */
  #firstFrom(at: number): number {
    let low = 0;
    let high = this.#steps.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#steps[middle]?.at ?? Infinity) < at) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #forget(before_s: number): void {
    const n = Math.max(this.#firstFrom(before_s), this.#steps.length - MOST);
    if (n > 256) this.#steps.splice(0, n); // not one by one
  }
}
