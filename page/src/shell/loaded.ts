/** Parts of the page that come when they are wanted. Knows signals; not what the parts are, nor how they are fetched. */
import { signal } from "@preact/signals";

export type Loading = "loading" | "failed";

export class Loaded<Name extends string, Part> {
  readonly #fetch: (name: Name) => Promise<Part>;
  readonly #found = signal<ReadonlyMap<Name, { readonly part: Part } | Loading>>(new Map());

  constructor(fetch: (name: Name) => Promise<Part>) {
    this.#fetch = fetch;
  }

  /** Return what was found under a name, or how it is. */
  get(name: Name): { readonly part: Part } | Loading {
    return this.#found.value.get(name) ?? "loading";
  }

  /** Load it, if it is neither here nor on its way; after a failure it is tried again. */
  async load(name: Name): Promise<void> {
    const known = this.#found.peek().get(name);
    if (known !== undefined && known !== "failed") return;
    this.#set(name, "loading");
    try {
      this.#set(name, { part: await this.#fetch(name) });
    } catch (error) {
      console.warn(error); // the person is told, where the part should be
      this.#set(name, "failed");
    }
  }

  #set(name: Name, what: { readonly part: Part } | Loading): void {
    this.#found.value = new Map(this.#found.peek()).set(name, what);
  }
}
