import type { VNode } from "preact";
import { text } from "../preferences";

export function TokenView(): VNode {
  return <h1>{text.value.token.title}</h1>;
}
