import type { VNode } from "preact";
import { text } from "../preferences";

export function LogView(): VNode {
  return <h1>{text.value.log.title}</h1>;
}
