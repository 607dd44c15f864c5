/** The key of the API, for this tab or for this browser. Knows where it is kept; nothing of requests. */
import { batch, signal } from "@preact/signals";
import { KeptKey } from "./kept_key";

const kept = new KeptKey(
  usable(() => sessionStorage),
  usable(() => localStorage),
);

export const apiKey = signal<string | null>(kept.read());

/** Whether the server has answered 401, or the key was forgotten, so that somebody has to type one. */
export const isKeyWanted = signal(false);

/** Counts the keys that were given: what failed without one tries again. */
export const keyChanges = signal(0);

export function giveKey(key: string, isRemembered: boolean): void {
  kept.keep(key, isRemembered);
  use(key);
}

/**
 * Takes over the key that `dure ui` has put behind the address, and hides it from there.
 * Anybody can make such a link: it never touches the key that the browser remembers.
 */
export function takeKeyFromAddress(): void {
  const found = /^#key=([\w-]+)$/.exec(location.hash)?.[1];
  if (found === undefined) return;
  kept.keepForTab(found);
  use(found);
  history.replaceState(null, "", location.pathname);
}

function use(key: string): void {
  batch(() => {
    apiKey.value = key;
    isKeyWanted.value = false;
    keyChanges.value += 1;
  });
}

/** Forget the key and ask for another: what was open with it is closed. */
export function forgetKey(): void {
  kept.forget();
  batch(() => {
    apiKey.value = null;
    isKeyWanted.value = true;
  });
}

function usable(storage: () => Storage): Storage | null {
  try {
    return storage();
  } catch {
    return null; // a browser that keeps nothing
  }
}
