import type { VNode } from "preact";
import type { ApiError } from "../api/client";
import { text } from "../preferences";

/** What the server refused, with its cure. */
export function Refusal({ problem }: { readonly problem: ApiError | null }): VNode | null {
  if (problem === null) return null;
  return (
    <div class="note bad" role="alert">
      <p>{problem.message}</p>
      {problem.cure !== null && (
        <p class="quiet">
          {text.value.cluster.cure}: {problem.cure}
        </p>
      )}
    </div>
  );
}
