import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { followSeen, isSeen } from "../src/parts/seen";

class Tab extends EventTarget {
  hidden: boolean;

  constructor(hidden: boolean) {
    super();
    this.hidden = hidden;
    followSeen(this as Pick<Document, "hidden" | "addEventListener">);
  }

  turn(hidden: boolean): void {
    this.hidden = hidden;
    this.dispatchEvent(new Event("visibilitychange"));
  }
}

beforeEach(() => {
  vi.useFakeTimers();
  isSeen.value = true;
});
afterEach(() => void vi.useRealTimers());

test("a page that is hidden for a while is not seen, until it is shown again", () => {
  const tab = new Tab(false);
  tab.turn(true);
  vi.advanceTimersByTime(19_000);
  expect(isSeen.value).toBe(true);
  vi.advanceTimersByTime(2_000);
  expect(isSeen.value).toBe(false);
  tab.turn(false);
  expect(isSeen.value).toBe(true);
});

test("a short look at another tab interrupts nothing", () => {
  const tab = new Tab(false);
  tab.turn(true);
  vi.advanceTimersByTime(5_000);
  tab.turn(false);
  vi.advanceTimersByTime(60_000);
  expect(isSeen.value).toBe(true);
});

test("a page that was opened in a tab that nobody looks at is not seen either", () => {
  new Tab(true);
  vi.advanceTimersByTime(21_000);
  expect(isSeen.value).toBe(false);
});
