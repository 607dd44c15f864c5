/**
 * A text that grows, as Markdown: blocks that are finished are read once, and keep their identity.
 * Else an answer of n tokens would be read n times from its start.
 */
import { type Block, piecesOf } from "./markdown";

// The last blocks may still change: a list goes on after an empty line, a line under text makes a heading.
const OPEN_BLOCKS = 2;

export class GrowingMarkdown {
  #finished: Block[] = [];
  #finishedLength = 0;
  #source = "";
  #blocks: readonly Block[] = [];

  /** Return the blocks of a text; quick if it begins with the text before. */
  read(text: string): readonly Block[] {
    const source = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text; // as the lexer counts
    if (source === this.#source) return this.#blocks;
    if (!source.startsWith(this.#source)) this.#forget();
    this.#source = source;
    const pieces = piecesOf(source.slice(this.#finishedLength));
    const open = Math.max(0, pieces.length - OPEN_BLOCKS);
    for (const { block, length } of pieces.slice(0, open)) {
      if (block !== null) this.#finished.push(block);
      this.#finishedLength += length;
    }
    this.#blocks = [...this.#finished, ...pieces.slice(open).flatMap(({ block }) => block ?? [])];
    return this.#blocks;
  }

  #forget(): void {
    this.#finished = [];
    this.#finishedLength = 0;
  }
}
