import type { VNode } from "preact";
import { text } from "../preferences";

export function ModelsView(): VNode {
  return <h1>{text.value.models.title}</h1>;
}
