import type { ComponentChildren, VNode } from "preact";
import { text } from "../preferences";

/** Says why something is not shown; to load the page again may help. */
export function Reload({ why }: { readonly why: ComponentChildren }): VNode {
  return (
    <div class="card" role="alert">
      <p>{why}</p>
      <button type="button" onClick={() => location.reload()}>
        {text.value.shell.reload}
      </button>
    </div>
  );
}
