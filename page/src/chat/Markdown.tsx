/** Draws blocks of Markdown. Every text becomes a text node. */
import { useSignal } from "@preact/signals";
import { Component, type ComponentChildren, type VNode } from "preact";
import { Scrolled } from "../parts/Scrolled";
import { text } from "../preferences";
import type { Align, Block, Inline } from "./markdown";

export function Markdown({ blocks }: { readonly blocks: readonly Block[] }): VNode {
  return (
    <div class="markdown" dir="auto">
      {blocks.map((block, i) => (
        <BlockView key={i} block={block} />
      ))}
    </div>
  );
}

/** Drawn again only if the block is another one: of a growing text, the last. */
class BlockView extends Component<{ readonly block: Block }> {
  override shouldComponentUpdate(next: { readonly block: Block }): boolean {
    return next.block !== this.props.block;
  }

  override render(): ComponentChildren {
    return drawBlock(this.props.block);
  }
}

function drawBlock(block: Block): ComponentChildren {
  switch (block.kind) {
    case "paragraph":
      return <p>{drawInlines(block.children)}</p>;
    case "heading":
      return drawHeading(block.depth, drawInlines(block.children));
    case "code":
      return <CodeBlock language={block.language} code={block.text} />;
    case "quote":
      return <blockquote>{drawBlocks(block.blocks)}</blockquote>;
    case "list":
      return drawList(block);
    case "table":
      return drawTable(block);
    case "rule":
      return <hr />;
    case "plain":
      return (
        <>
          <p class="quiet">{text.value.chat.tooLong}</p>
          <pre class="plain">{block.text}</pre>
        </>
      );
  }
}

function drawBlocks(blocks: readonly Block[]): ComponentChildren {
  return blocks.map((block, i) => <BlockView key={i} block={block} />);
}

/** The page has headings of its own above: those of a text begin at the second level. */
function drawHeading(depth: number, children: ComponentChildren): VNode {
  if (depth <= 1) return <h2>{children}</h2>;
  return depth === 2 ? <h3>{children}</h3> : <h4>{children}</h4>;
}

function drawList(list: Block & { readonly kind: "list" }): VNode {
  const items = list.items.map((item, i) => (
    <li key={i} class={item.checked === null ? "" : "task"}>
      {item.checked !== null && <span aria-hidden="true">{item.checked ? "☑ " : "☐ "}</span>}
      {drawBlocks(item.blocks)}
    </li>
  ));
  return list.start === null ? <ul>{items}</ul> : <ol start={list.start}>{items}</ol>;
}

function drawTable(table: Block & { readonly kind: "table" }): VNode {
  return (
    <Scrolled label={text.value.shell.details}>
      <table>
        <thead>
          <tr>
            {table.head.map((cell, i) => (
              <th key={i} class={alignClass(table.align[i])}>
                {drawInlines(cell)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {table.rows.map((row, i) => (
            <tr key={i}>
              {row.map((cell, j) => (
                <td key={j} class={alignClass(table.align[j])}>
                  {drawInlines(cell)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scrolled>
  );
}

function alignClass(align: Align | undefined): string {
  return align === null || align === undefined ? "" : `align-${align}`;
}

function drawInlines(inlines: readonly Inline[]): ComponentChildren {
  return inlines.map(drawInline);
}

function drawInline(inline: Inline): ComponentChildren {
  switch (inline.kind) {
    case "text":
      return inline.text;
    case "code":
      return <code>{inline.text}</code>;
    case "strong":
      return <strong>{drawInlines(inline.children)}</strong>;
    case "emphasis":
      return <em>{drawInlines(inline.children)}</em>;
    case "deleted":
      return <del>{drawInlines(inline.children)}</del>;
    case "break":
      return <br />;
    case "link":
      return (
        <a href={inline.href} target="_blank" rel="noopener noreferrer" title={inline.href}>
          {drawInlines(inline.children)}
        </a>
      );
  }
}

function CodeBlock({
  language,
  code,
}: {
  readonly language: string;
  readonly code: string;
}): VNode {
  const t = text.value.chat;
  return (
    <figure class="code">
      <figcaption>
        <span>{language === "" ? t.code : language}</span>
        <CopyButton content={code} />
      </figcaption>
      <pre tabIndex={0} dir="ltr">
        <code>{code}</code>
      </pre>
    </figure>
  );
}

export function CopyButton({ content }: { readonly content: string }): VNode {
  const isCopied = useSignal(false);
  const t = text.value.chat;
  const copy = async (): Promise<void> => {
    await copyText(content);
    isCopied.value = true;
    setTimeout(() => (isCopied.value = false), 1500);
  };
  return (
    <button type="button" class="small" onClick={() => void copy()}>
      <span aria-live="polite">{isCopied.value ? t.copied : t.copy}</span>
    </button>
  );
}

/** navigator.clipboard is missing where the page comes over plain HTTP from another machine. */
async function copyText(content: string): Promise<void> {
  if (navigator.clipboard !== undefined) return navigator.clipboard.writeText(content);
  const area = document.createElement("textarea");
  area.value = content;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
