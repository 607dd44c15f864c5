/** The key of the API, for this tab or for this browser. Knows where it is kept; nothing of requests. */
import { signal } from "@preact/signals";

const NAME = "dure.key";

function kept(): string | null {
  try {
    return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
  } catch {
    return null; // a browser that keeps nothing
  }
}

export const apiKey = signal<string | null>(kept());

/** Whether the server has answered 401, so that somebody has to type a key. */
export const isKeyWanted = signal(false);

/** Counts the keys that were given: what failed without one tries again. */
export const keyChanges = signal(0);

export function giveKey(key: string, isRemembered: boolean): void {
  forgetKey();
  try {
    (isRemembered ? localStorage : sessionStorage).setItem(NAME, key);
  } catch {
    // It lives in this tab until a reload.
  }
  apiKey.value = key;
  isKeyWanted.value = false;
  keyChanges.value += 1;
}

/** Takes over the key that `dure ui` has put behind the address, and hides it from there. */
export function takeKeyFromAddress(): void {
  const found = /^#key=([\w-]+)$/.exec(location.hash)?.[1];
  if (found === undefined) return;
  giveKey(found, false);
  history.replaceState(null, "", location.pathname);
}

export function forgetKey(): void {
  apiKey.value = null;
  try {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
  } catch {
    // Nothing was kept.
  }
}
