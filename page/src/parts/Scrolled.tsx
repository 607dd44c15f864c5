import type { ComponentChildren, VNode } from "preact";

interface ScrolledProps {
  readonly label: string;
  readonly children: ComponentChildren;
}

/** What may be wider than the screen; the keyboard can scroll it too. */
export function Scrolled({ label, children }: ScrolledProps): VNode {
  return (
    <div class="scrolled" tabIndex={0} role="group" aria-label={label}>
      {children}
    </div>
  );
}
