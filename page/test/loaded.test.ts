import { expect, test } from "vitest";
import { Loaded } from "../src/shell/loaded";

test("a part is fetched once, however often it is wanted", async () => {
  const fetched: string[] = [];
  const files = new Loaded(async (name: string) => {
    fetched.push(name);
    return name.toUpperCase();
  });
  expect(files.get("chat")).toBe("loading");
  await Promise.all([files.load("chat"), files.load("chat")]);
  await files.load("chat");
  expect(files.get("chat")).toEqual({ part: "CHAT" });
  expect(fetched).toEqual(["chat"]);
});

test("a part that could not be fetched is told, and tried again when it is wanted again", async () => {
  let isThere = false;
  const files = new Loaded(async () => {
    if (!isThere) throw new TypeError("Failed to fetch");
    return "it";
  });
  await files.load("log");
  expect(files.get("log")).toBe("failed");
  isThere = true;
  await files.load("log");
  expect(files.get("log")).toEqual({ part: "it" });
});
