import { render } from "preact-render-to-string";
import { expect, test } from "vitest";
import { GrowingMarkdown } from "../src/chat/growing";
import { Markdown } from "../src/chat/Markdown";
import { blocksOf, safeAddress } from "../src/chat/markdown";

function html(source: string): string {
  return render(<Markdown blocks={blocksOf(source)} />);
}

test.each([
  "<script>alert(1)</script>",
  'text <img src=x onerror="alert(1)"> text',
  "<iframe src='javascript:alert(1)'></iframe>",
  "<style>body{display:none}</style>",
  '<a href="javascript:alert(1)" style="position:fixed;inset:0">all</a>',
  "<svg onload=alert(1)>",
  "# <b>heading</b>",
  "| a |\n|---|\n| <video src=x> |",
  "- <object data=x>\n- [ ] <embed>",
  "&lt;script&gt;alert(1)&lt;/script&gt;",
  "&#60;script&#62;",
  "```html\n<script>alert(1)</script>\n```",
  "`<script>`",
])("HTML stays text: %s", (source) => {
  const drawn = html(source);
  expect(drawn).not.toMatch(/<(script|img|iframe|style|svg|b|video|object|embed|a)[\s>]/);
  expect(drawn).toContain("&lt;");
});

test.each([
  "javascript:alert(1)",
  "JAVASCRIPT:alert(1)",
  "java\tscript:alert(1)",
  " javascript:alert(1)",
  "vbscript:x",
  "data:text/html,x",
  "file:///etc/passwd",
  "/page/feed",
  "//example.org",
  "#/chat",
  "https://example.org/\u202egpj",
  "blob:https://example.org/x",
])("a link to %s is refused", (href) => {
  expect(safeAddress(href)).toBeNull();
  expect(html(`[text](<${href}>)`)).not.toContain("<a ");
});

test.each(["https://example.org/a?b=1&c=2", "http://10.0.0.1:8080/", "mailto:a@example.org"])(
  "a link to %s is one, and tells the other page nothing",
  (href) => {
    const drawn = html(`[text](${href})`);
    expect(drawn).toContain(`href="${href.replace("&", "&amp;")}"`);
    expect(drawn).toContain('rel="noopener noreferrer"');
  },
);

test("an address that is an entity is looked at as the browser would read it", () => {
  expect(html("[text](&#106;avascript:alert(1))")).not.toContain("<a ");
});

test("an entity is a character; a word that is none stays as it was written", () => {
  expect(html("&lt;&AMP;&gt;")).toContain("&lt;&amp;>");
  for (const name of ["constructor", "toString", "valueOf", "hasOwnProperty", "foo"]) {
    expect(html(`a &${name}; b`)).toContain(`a &amp;${name}; b`);
  }
});

test("an image is a link and is not loaded", () => {
  const drawn = html("![alt](https://example.org/x.png)");
  expect(drawn).not.toContain("<img");
  expect(drawn).toContain(">alt</a>");
});

test("escapes of terminals and marks of direction are shown", () => {
  const drawn = html("\u001b[31mred \u202Egpj.exe\n\n```\n\u2066x\n```\n\n`\u202e`");
  expect(drawn).toContain("⟨U+001B⟩[31mred ⟨U+202E⟩gpj.exe");
  expect(drawn).toContain("⟨U+2066⟩x");
  expect(drawn).not.toMatch(/[\u001b\u202e\u2066]/);
});

test("a line of a megabyte, and brackets and quotes without end, are text", () => {
  for (const source of [
    "x".repeat(1_000_000),
    "[".repeat(30_000),
    ">".repeat(15_000),
    "*_".repeat(9_000),
  ]) {
    expect(html(source).length).toBeGreaterThanOrEqual(source.length);
  }
});

test("Markdown is laid out", () => {
  const drawn = html(
    "## T\n\n1. one\n2. **two**\n   - `three`\n\n> q\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n- [x] done",
  );
  for (const part of [
    "<h3>T</h3>",
    "<ol",
    "<strong>two</strong>",
    "<code>three</code>",
    "<blockquote>",
  ]) {
    expect(drawn).toContain(part);
  }
  expect(drawn).toContain('<td class="align-right">2</td>');
  expect(drawn).toContain("☑");
});

const LONG = Array.from(
  { length: 40 },
  (_, i) =>
    `## Part ${i}\n\nSome *text*\r\nmore\n\n- a\n- b\n\n  in b\n\n\`\`\`js\nf(${i})\n\n\`\`\``,
).join("\n\n");

test("a text that grows by any pieces is laid out as if it had come at once", () => {
  for (const size of [1, 7, 100]) {
    const growing = new GrowingMarkdown();
    for (let end = 0; end < LONG.length; end += size) growing.read(LONG.slice(0, end));
    expect(growing.read(LONG)).toEqual(blocksOf(LONG.replaceAll("\r\n", "\n")));
  }
});

test("finished blocks of a growing text stay the same objects, so that they are not drawn again", () => {
  const growing = new GrowingMarkdown();
  const before = growing.read(LONG);
  const after = growing.read(`${LONG}\n\nend`);
  expect(after.slice(0, -3).every((block, i) => block === before[i])).toBe(true);
});

test("a text that is another one is read from its start", () => {
  const growing = new GrowingMarkdown();
  growing.read(LONG);
  expect(growing.read("# other")).toEqual(blocksOf("# other"));
});
