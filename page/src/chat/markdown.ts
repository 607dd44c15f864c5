/**
 * Markdown of a model as a tree of plain data: it holds text and structure, and never HTML.
 * What a model writes is not trusted: HTML stays text, and a link leads to the web or to mail, or is text.
 */
import { marked, type Token, type Tokens } from "marked";
import { visible } from "./visible";

export type Inline =
  | { readonly kind: "text" | "code"; readonly text: string }
  | { readonly kind: "strong" | "emphasis" | "deleted"; readonly children: readonly Inline[] }
  | { readonly kind: "link"; readonly href: string; readonly children: readonly Inline[] }
  | { readonly kind: "break" };

export interface ListItem {
  /** Of a list of tasks. */
  readonly checked: boolean | null;
  readonly blocks: readonly Block[];
}

export type Align = "left" | "center" | "right" | null;

export type Block =
  | { readonly kind: "paragraph"; readonly children: readonly Inline[] }
  | { readonly kind: "heading"; readonly depth: number; readonly children: readonly Inline[] }
  | { readonly kind: "code"; readonly language: string; readonly text: string }
  | { readonly kind: "quote"; readonly blocks: readonly Block[] }
  | {
      readonly kind: "list";
      readonly start: number | null;
      readonly items: readonly ListItem[];
    }
  | {
      readonly kind: "table";
      readonly align: readonly Align[];
      readonly head: readonly (readonly Inline[])[];
      readonly rows: readonly (readonly (readonly Inline[])[])[];
    }
  | { readonly kind: "rule" }
  /** As it was written: too long or too deep to be worth a layout. */
  | { readonly kind: "plain"; readonly text: string };

/** A block, and how many characters of the source it and the space after it take. */
export interface Piece {
  readonly length: number;
  readonly block: Block | null;
}

const LONGEST_LINE = 20_000; // characters without a line break: not prose
const DEEPEST = 12; // quotes in lists in quotes

/** Return the blocks of a text, which together are as long as it is. */
export function piecesOf(source: string): readonly Piece[] {
  if (hasLongLine(source)) return [plainPiece(source)];
  try {
    return marked.lexer(source).map((token) => ({
      length: token.raw.length,
      block: blockOf(token, 0),
    }));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // too deep for the stack
    return [plainPiece(source)];
  }
}

export function blocksOf(source: string): readonly Block[] {
  return piecesOf(source).flatMap(({ block }) => block ?? []);
}

function plainPiece(source: string): Piece {
  return { length: source.length, block: { kind: "plain", text: visible(source) } };
}

function hasLongLine(source: string): boolean {
  if (source.length < LONGEST_LINE) return false;
  return source.split("\n").some((line) => line.length >= LONGEST_LINE);
}

function blockOf(token: Token, depth: number): Block | null {
  if (depth > DEEPEST) return { kind: "plain", text: visible(token.raw) };
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading":
      return {
        kind: "heading",
        depth: (token as Tokens.Heading).depth,
        children: inlinesOf(token),
      };
    case "code": {
      const { lang, text } = token as Tokens.Code;
      return {
        kind: "code",
        language: visible((lang ?? "").split(/\s/)[0] ?? ""),
        text: visible(text),
      };
    }
    case "blockquote":
      return { kind: "quote", blocks: nested(token.tokens ?? [], depth) };
    case "list":
      return listOf(token as Tokens.List, depth);
    case "table":
      return tableOf(token as Tokens.Table);
    case "hr":
      return { kind: "rule" };
    case "html":
      return { kind: "paragraph", children: [plain(token.raw.trimEnd())] };
    default:
      return { kind: "paragraph", children: inlinesOf(token) };
  }
}

function nested(tokens: readonly Token[], depth: number): readonly Block[] {
  return tokens.flatMap((token) => blockOf(token, depth + 1) ?? []);
}

function listOf(list: Tokens.List, depth: number): Block {
  return {
    kind: "list",
    start: list.ordered ? Number(list.start) || 0 : null,
    items: list.items.map((item) => ({
      checked: item.task ? (item.checked ?? false) : null,
      blocks: nested(
        item.tokens.filter(({ type }) => type !== "checkbox"),
        depth,
      ),
    })),
  };
}

function tableOf(table: Tokens.Table): Block {
  return {
    kind: "table",
    align: table.align,
    head: table.header.map(inlinesOf),
    rows: table.rows.map((row) => row.map(inlinesOf)),
  };
}

function inlinesOf(token: {
  readonly raw?: string;
  readonly text?: string;
  readonly tokens?: Token[];
}): readonly Inline[] {
  if (token.tokens === undefined) return [plain(decoded(token.text ?? token.raw ?? ""))];
  return token.tokens.filter(({ type }) => type !== "checkbox").map(inlineOf);
}

function inlineOf(token: Token): Inline {
  switch (token.type) {
    case "strong":
      return { kind: "strong", children: inlinesOf(token) };
    case "em":
      return { kind: "emphasis", children: inlinesOf(token) };
    case "del":
      return { kind: "deleted", children: inlinesOf(token) };
    case "codespan":
      return { kind: "code", text: visible((token as Tokens.Codespan).text) };
    case "br":
      return { kind: "break" };
    case "link":
      return linkOf((token as Tokens.Link).href, inlinesOf(token), token.raw);
    case "image": {
      const { href, text } = token as Tokens.Image; // never loaded: a link to it
      return linkOf(href, [plain(text === "" ? href : text)], token.raw);
    }
    case "html":
      return plain(token.raw);
    case "escape":
      return plain((token as Tokens.Escape).text);
    case "text":
      return plain(decoded((token as Tokens.Text).text));
    default:
      return plain(token.raw);
  }
}

function linkOf(href: string, children: readonly Inline[], raw: string): Inline {
  const safe = safeAddress(decoded(href));
  return safe === null ? plain(raw) : { kind: "link", href: safe, children };
}

/** Return the address if it is an absolute one of the web or of mail, else null. */
export function safeAddress(href: string): string | null {
  if (!/^(https?:\/\/|mailto:)/i.test(href) || visible(href) !== href) return null;
  try {
    const { protocol } = new URL(href);
    return ["http:", "https:", "mailto:"].includes(protocol) ? href : null;
  } catch {
    return null;
  }
}

function plain(text: string): Inline {
  return { kind: "text", text: visible(text) };
}

const ENTITIES: ReadonlyMap<string, string> = new Map([
  ["amp", "&"],
  ["lt", "<"],
  ["gt", ">"],
  ["quot", '"'],
  ["apos", "'"],
  ["nbsp", "\u00a0"],
]);

/** Return text with its common entities as characters. They become text, whatever they are. */
function decoded(text: string): string {
  return text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|([a-z]+));/gi, (raw, decimal, hex, name) => {
    if (name !== undefined) return ENTITIES.get(String(name).toLowerCase()) ?? String(raw);
    const code = decimal === undefined ? parseInt(String(hex), 16) : Number(decimal);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : String(raw);
  });
}
