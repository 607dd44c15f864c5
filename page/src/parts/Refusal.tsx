import type { VNode } from "preact";
import type { ApiError } from "../api/client";
import { text } from "../preferences";
import { toldText } from "../text/told";
import { Sentence } from "./Sentence";

/** What the server refused, with its cure. */
export function Refusal({ problem }: { readonly problem: ApiError | null }): VNode | null {
  if (problem === null) return null;
  return (
    <div class="note bad" role="alert">
      <p>
        <Sentence text={toldText(problem.message)} />
      </p>
      {problem.cure !== null && (
        <p class="quiet">
          {text.value.cluster.cure}: <Sentence text={toldText(problem.cure)} />
        </p>
      )}
    </div>
  );
}
