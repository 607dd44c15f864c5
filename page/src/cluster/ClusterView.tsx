import type { VNode } from "preact";
import { text } from "../preferences";

export function ClusterView(): VNode {
  return <h1>{text.value.cluster.title}</h1>;
}
