import { expect, test } from "vitest";
import type { State } from "../src/api/contract";
import { state } from "../src/api/feed";
import { followVersion, isOutdated } from "../src/shell/version";

function arrive(version: string | null): void {
  state.value = version === null ? null : ({ server: { version } } as State);
}

test("the page is outdated while the server is of another version than at first", () => {
  followVersion();
  const seen = ["1.0", "1.0", null, "1.1", "1.0"].map((version) => {
    arrive(version);
    return isOutdated.value;
  });
  expect(seen).toEqual([false, false, false, true, false]);
});
