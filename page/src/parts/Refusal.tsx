import type { VNode } from "preact";
import type { ApiError } from "../api/client";
import { text } from "../preferences";
import { toldText } from "../text/told";

/** What the server refused, with its cure. */
export function Refusal({ problem }: { readonly problem: ApiError | null }): VNode | null {
  if (problem === null) return null;
  return (
    <div class="note bad" role="alert">
      <p>{toldText(problem.message)}</p>
      {problem.cure !== null && (
        <p class="quiet">
          {text.value.cluster.cure}: {toldText(problem.cure)}
        </p>
      )}
    </div>
  );
}
