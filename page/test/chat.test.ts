import { expect, test } from "vitest";
import { AnswerBuilder } from "../src/chat/answer";
import {
  answered,
  asked,
  asMarkdown,
  type Conversation,
  newConversation,
  requestFor,
  titleOf,
  unanswered,
} from "../src/chat/conversation";
import { History, MemoryStorage } from "../src/chat/history";

/** A browser's storage that holds so many characters. */
class SmallStorage extends MemoryStorage {
  constructor(readonly most: number) {
    super();
  }
  override setItem(key: string, value: string): void {
    const others = Array.from({ length: this.length }, (_, i) => this.key(i))
      .filter((name) => name !== null && name !== key)
      .reduce(
        (sum, name) => sum + (name?.length ?? 0) + (this.getItem(name ?? "")?.length ?? 0),
        0,
      );
    if (others + key.length + value.length > this.most)
      throw new DOMException("full", "QuotaExceededError");
    super.setItem(key, value);
  }
}

function conversation(id: string, text: string, changed = 1): Conversation {
  return { ...asked(newConversation(id, changed), text, 0), changed };
}

function answer(...data: unknown[]): AnswerBuilder {
  const builder = new AnswerBuilder("m");
  data.forEach((each, i) => builder.take(JSON.stringify(each), i));
  return builder;
}

const delta = (delta: unknown): unknown => ({ choices: [{ delta }] });

test("conversations are kept, the latest first", () => {
  const history = new History(new MemoryStorage());
  expect(history.save(conversation("a", "first", 1))).toBe("kept");
  history.save(conversation("b", "second", 2));
  expect(history.list().map(({ title }) => title)).toEqual(["second", "first"]);
  expect(history.load("a")?.messages).toHaveLength(1);
  history.remove("a");
  expect(history.load("a")).toBeNull();
  history.removeAll();
  expect(history.list()).toEqual([]);
});

test("a full storage says so, and keeps what it had", () => {
  const history = new History(new SmallStorage(600));
  expect(history.save(conversation("a", "short"))).toBe("kept");
  expect(history.save(conversation("a", "x".repeat(1000)))).toBe("full");
  expect(history.load("a")?.messages[0]?.text).toBe("short");
  expect(history.save(conversation("b", "x".repeat(1000)))).toBe("full");
  expect(history.list().map(({ id }) => id)).toEqual(["a"]);
});

test("what is damaged, or not ours, is not read", () => {
  const storage = new MemoryStorage();
  storage.setItem("dure.chats", "{");
  storage.setItem("dure.chat.a", '{"version":9,"messages":[]}');
  const history = new History(storage);
  expect(history.list()).toEqual([]);
  expect(history.load("a")).toBeNull();
});

test("an answer is put together from its chunks", () => {
  const { message, reading } = answer(
    { choices: [{ delta: {} }], prompt_progress: { total: 9, processed: 4 } },
    delta({ reasoning_content: "hm" }),
    delta({ content: "Hel" }),
    delta({ content: "lo" }),
    delta({ tool_calls: [{ index: 0, function: { name: "f", arguments: "" } }] }),
    delta({ tool_calls: [{ index: 0, function: { arguments: '{"a":1}' } }] }),
    {
      choices: [{ delta: {}, finish_reason: "stop" }],
      timings: {
        cache_n: 3,
        prompt_n: 6,
        predicted_n: 2,
        predicted_per_second: 8,
        compute_ms: 3,
        sync_ms: 1,
      },
    },
  );
  expect(message).toMatchObject({
    text: "Hello",
    thinking: "hm",
    finish: "stop",
    error: null,
    toolCalls: [{ name: "f", arguments: '{"a":1}' }],
    figures: {
      tokens: 2,
      tokens_per_s: 8,
      first_s: 1,
      prompt_tokens: 9,
      cached_tokens: 3,
      waited: 0.25,
    },
  });
  expect(reading).toBeNull();
});

test("an answer that was begun before the models were known has the name of the one that was asked", () => {
  const builder = new AnswerBuilder("");
  builder.asks("m");
  builder.take(JSON.stringify(delta({ content: "Hi" })), 1);
  expect(builder.message).toMatchObject({ model: "m", text: "Hi" });
});

test("before the first token, it is known how far the prompt is read", () => {
  expect(answer({ choices: [], prompt_progress: { total: 9, processed: 4 } }).reading).toEqual({
    done: 4,
    all: 9,
  });
});

test("an answer whose stream breaks off is not taken for a whole one", () => {
  expect(answer(delta({ content: "Hel" })).isEnded).toBe(false);
  expect(answer({ choices: [{ delta: {}, finish_reason: "stop" }] }).isEnded).toBe(true);
});

test("an error in the stream is kept with its cure", () => {
  const { message } = answer(delta({ content: "Hel" }), {
    error: { message: "lost", cure: "wait" },
  });
  expect(message).toMatchObject({ text: "Hel", error: "lost", cure: "wait" });
});

test("a request has the system prompt, the settings and what was said", () => {
  const { message } = answer(delta({ content: "hi" }));
  const empty = answer().message;
  const asking = {
    ...answered(answered(conversation("a", "hello"), message), empty),
    system: " be short ",
    sampling: { temperature: 0 },
  };
  expect(requestFor(asking, "m")).toMatchObject({
    model: "m",
    stream: true,
    temperature: 0,
    messages: [
      { role: "system", content: "be short" },
      { role: "user", content: "hello" },
      { role: "assistant", content: "hi" },
    ],
  });
});

test("a question that is edited forgets what followed; an answer is given again to the last one", () => {
  const said = answered(conversation("a", "one"), answer(delta({ content: "1" })).message);
  const more = answered(asked(said, "two", 2), answer(delta({ content: "2" })).message);
  expect(asked(more, "other", 0).messages).toEqual([{ role: "user", text: "other" }]);
  expect(unanswered(more)?.messages.at(-1)).toEqual({ role: "user", text: "two" });
  expect(unanswered(newConversation("a", 1))).toBeNull();
});

test("a conversation is named by its first message, and can be exported", () => {
  expect(titleOf(conversation("a", "  a\n b "))).toBe("a b");
  expect(titleOf(conversation("a", "x".repeat(99)))).toHaveLength(60);
  expect(titleOf(newConversation("a", 1))).toBeNull();
  expect(asMarkdown(conversation("a", "hello"), "You", "New")).toBe("# hello\n\n## You\n\nhello\n");
});
