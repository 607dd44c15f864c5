import { expect, test } from "vitest";
import { KeptKey } from "../src/api/kept_key";
import { MemoryStorage } from "../src/chat/history";

test("a key of an address is the tab's, and the one that the browser remembers stays", () => {
  const browser = new MemoryStorage();
  const tab = new KeptKey(new MemoryStorage(), browser);
  tab.keep("remembered", true);
  tab.keepForTab("linked");
  expect(tab.read()).toBe("linked");
  expect(new KeptKey(new MemoryStorage(), browser).read()).toBe("remembered");
});

test("a key that was typed is in place of all others, for the tab or for the browser", () => {
  const browser = new MemoryStorage();
  const tab = new KeptKey(new MemoryStorage(), browser);
  tab.keepForTab("linked");
  tab.keep("first", true);
  expect(tab.read()).toBe("first");
  tab.keep("second", false);
  expect(tab.read()).toBe("second");
  expect(new KeptKey(new MemoryStorage(), browser).read()).toBeNull();
});

test("a key that was forgotten is nowhere", () => {
  const kept = new KeptKey(new MemoryStorage(), new MemoryStorage());
  kept.keep("remembered", true);
  kept.keepForTab("linked");
  kept.forget();
  expect(kept.read()).toBeNull();
});

test("a browser that keeps nothing has no key", () => {
  const kept = new KeptKey(null, null);
  kept.keep("a", true);
  kept.keepForTab("b");
  kept.forget();
  expect(kept.read()).toBeNull();
});
