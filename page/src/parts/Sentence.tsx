import { Fragment, type VNode } from "preact";

/** A sentence of the server; what is between backticks is something to type. */
export function Sentence({ text }: { readonly text: string }): VNode {
  const parts = text.split("`");
  const isPaired = parts.length % 2 === 1;
  return (
    <>
      {isPaired
        ? parts.map((part, i) =>
            i % 2 === 1 ? <code key={i}>{part}</code> : <Fragment key={i}>{part}</Fragment>,
          )
        : text}
    </>
  );
}
