import type { VNode } from "preact";
import { text } from "../preferences";

export function NowView(): VNode {
  return <h1>{text.value.now.title}</h1>;
}
