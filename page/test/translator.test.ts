import { expect, test } from "vitest";
import sentences from "../src/text/sentences.ko.json";
import { Translator } from "../src/text/translator";

const korean = new Translator(sentences);

test("a sentence with a code is said with its facts, lists and reasons too", () => {
  const said = (code: string, facts: Record<string, unknown>, cure: string | null = "x") =>
    korean.said({ text: "in English", cure, code, facts });
  expect(said("joined", { node: "pi-3" }, null)).toEqual({
    text: "pi-3 노드가 추가되었습니다.",
    cure: null,
  });
  expect(said("throttled", { node: "pi-3", why: ["under-voltage", "throttled"] })).toEqual({
    text: "pi-3 노드가 제 속도를 내지 못합니다: 전압 부족, 스로틀링",
    cure: "`dure doctor --cluster`로 원인을 확인하세요.",
  });
  const routed = { path: "/v1/chat/completions", target: "desk", route: "quickest", seconds: 1.5 };
  expect(said("routed", routed, null).text).toBe("/v1/chat/completions → desk (가장 빠름), 1.5초");
  expect(korean.said({ text: "x", cure: null, code: "model_loaded", facts: null }).text).toBe(
    "모델을 로드했습니다.",
  );
  expect(said("removed", {}, null).text).toBe("? 노드가 제거되었습니다.");
});

test("a code that is not known, and a text without one, are known by their words or stay", () => {
  const bare = { cure: null, facts: null };
  expect(korean.said({ ...bare, text: "the engine is ready again", code: null }).text).toBe(
    "엔진이 다시 준비되었습니다.",
  );
  expect(korean.said({ ...bare, text: "something new", code: "new" }).text).toBe("something new");
});

test.each([
  [
    "the engine ended (rank 1 was killed while answering (signal 9): if nobody did, its machine ran out of memory; use a smaller --ctx or more ranks); it is started again",
    "엔진이 종료되어 다시 시작합니다: 1번 랭크가 답변 생성 중에 강제 종료되었습니다(시그널 9). 직접 종료한 것이 아니라면 그 머신의 메모리가 부족한 것입니다. --ctx를 줄이거나 랭크를 늘리세요.",
  ],
  [
    "pi-2 at 10.0.0.2:4630 does not answer: no answer in time: is it on, and on this network?",
    "pi-2 노드(10.0.0.2:4630)가 응답하지 않습니다: 응답 시간이 초과되었습니다. 전원이 켜져 있고 같은 네트워크에 있는지 확인하세요.",
  ],
  [
    "rank 0: the KV cache of 512 positions is full: use a larger --ctx",
    "rank 0: 위치 512개짜리 KV 캐시가 가득 찼습니다. --ctx를 늘리세요.",
  ],
  [
    "the prompt is too long: 5000 tokens > 4096 maximum: shorten it, or use a larger --ctx if the model allows it",
    "프롬프트가 너무 깁니다. 토큰이 5000개인데 최대 4096개까지 가능합니다. 줄이거나, 모델이 허용하면 --ctx를 늘리세요.",
  ],
  ["this API key is not known, or was revoked", "알 수 없거나 폐기된 API 키입니다."],
  [
    "other programs are using the processors: 3 instead of 4 threads on pi-1, 1 instead of 2 threads on pi-2 for now",
    "다른 프로그램이 프로세서를 사용하고 있어 당분간 스레드를 줄입니다: pi-1 스레드 4개 → 3개, pi-2 스레드 2개 → 1개",
  ],
  ["loading 2 shards", "샤드 2개 로드 중"],
  ["waiting for pi-2, pi-3", "노드 대기 중: pi-2, pi-3"],
  ["waiting for pi-2, as it is full", "노드 대기 중: pi-2 (it is full)"],
  [
    "'x': there is no model of this name: did you mean qwen3:4b or qwen3:8b?",
    "'x': 이런 이름의 모델이 없습니다. 혹시 qwen3:4b 또는 qwen3:8b 모델을 찾으시나요?",
  ],
  ["the server answered 502 Bad Gateway", "서버가 오류로 응답했습니다: 502 Bad Gateway"],
])("%s", (english, said) => {
  expect(korean.text(english)).toBe(said);
});

test("what is not known stays as it is, also a long text", () => {
  for (const text of ["", "두레", "42", "nobody has said this: ever", `${"a: ".repeat(1000)}`]) {
    expect(korean.text(text)).toBe(text);
  }
});

test("a reason within reasons ends, and takes no time", () => {
  const nested = `${"the engine does not run: ".repeat(60)}nothing`;
  expect(korean.text(nested)).toContain("엔진이 실행되고 있지 않습니다");
});
