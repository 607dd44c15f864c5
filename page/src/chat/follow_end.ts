import type { RefObject } from "preact";
import { useLayoutEffect } from "preact/hooks";

const NEAR_END_PX = 60;

/**
 * Keep the end of growing content in view, until the reader scrolls up, and again once they come back to it.
 * Whenever `asked` changes, the end is shown: who asks wants to see the answer.
 */
export function useFollowedEnd(
  box: RefObject<HTMLElement | null>,
  content: RefObject<HTMLElement | null>,
  asked: number,
): void {
  useLayoutEffect(() => {
    if (box.current === null || content.current === null) return undefined;
    return followEnd(box.current, content.current);
  }, [box, content, asked]);
}

function followEnd(box: HTMLElement, content: HTMLElement): () => void {
  let isFollowing = true;
  let top = 0;
  let height = 0;
  const toEnd = (): void => {
    if (isFollowing) box.scrollTop = box.scrollHeight;
  };
  const onScroll = (): void => {
    const isNearEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
    // Content that shrinks moves the box up too, and that is not the reader.
    const isReader = box.scrollTop < top && box.scrollHeight >= height;
    if (isNearEnd) isFollowing = true;
    else if (isReader) isFollowing = false;
    top = box.scrollTop;
    height = box.scrollHeight;
  };
  const observer = new ResizeObserver(toEnd);
  observer.observe(content);
  box.addEventListener("scroll", onScroll, { passive: true });
  toEnd();
  return () => {
    observer.disconnect();
    box.removeEventListener("scroll", onScroll);
  };
}
