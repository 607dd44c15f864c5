/** Keeps a key for a tab or for the browser. null: a storage that the browser forbids. Knows nothing of the server. */

const NAME = "dure.key";

export class KeptKey {
  readonly #tab: Storage | null;
  readonly #browser: Storage | null;

  constructor(tab: Storage | null, browser: Storage | null) {
    this.#tab = tab;
    this.#browser = browser;
  }

  /** Return the tab's own key, else the browser's. */
  read(): string | null {
    return this.#tab?.getItem(NAME) ?? this.#browser?.getItem(NAME) ?? null;
  }

  /** Keep a key that a person has typed, in place of all others. */
  keep(key: string, isRemembered: boolean): void {
    this.forget();
    put(isRemembered ? this.#browser : this.#tab, key);
  }

  /** Keep a key that nobody has typed: for this tab, beside what the browser remembers. */
  keepForTab(key: string): void {
    put(this.#tab, key);
  }

  forget(): void {
    this.#tab?.removeItem(NAME);
    this.#browser?.removeItem(NAME);
  }
}

function put(storage: Storage | null, key: string): void {
  try {
    storage?.setItem(NAME, key);
  } catch {
    // It is full: the key lives in this page until a reload.
  }
}
