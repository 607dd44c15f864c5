/** Whether somebody may be looking: the server need not tell what nobody sees. */
import { signal } from "@preact/signals";

const HIDDEN_S = 20; // a short look at another tab interrupts nothing

/** False once the page was hidden for a while. */
export const isSeen = signal(true);

/** Follow whether the page is hidden, for as long as it is open; it may have been opened in another tab. */
export function followSeen(page: Pick<Document, "hidden" | "addEventListener"> = document): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const look = (): void => {
    clearTimeout(timer);
    if (page.hidden) timer = setTimeout(() => (isSeen.value = false), HIDDEN_S * 1000);
    else isSeen.value = true;
  };
  page.addEventListener("visibilitychange", look);
  look();
}
