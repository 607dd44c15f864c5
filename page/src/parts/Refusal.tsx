import type { VNode } from "preact";
import type { ApiError } from "../api/client";
import { text } from "../preferences";

/** What the server refused, with its cure. */
export function Refusal({ problem }: { readonly problem: ApiError | null }): VNode | null {
  if (problem === null) return null;
  return (
    <p class="note bad" role="alert">
      {problem.message}
      {problem.cure !== null && ` ${text.value.cluster.cure}: ${problem.cure}`}
    </p>
  );
}
