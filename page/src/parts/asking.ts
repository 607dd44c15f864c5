/** A question to the server: whether it is being asked, and what was refused. */
import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { ApiError } from "../api/client";

export class Asking {
  readonly isAsking = signal(false);
  readonly problem = signal<ApiError | null>(null);

  /** Ask; what the server refuses is kept, and a bug goes on. */
  async ask(question: () => Promise<unknown>): Promise<void> {
    this.isAsking.value = true;
    this.problem.value = null;
    try {
      await question();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.problem.value = error;
    } finally {
      this.isAsking.value = false;
    }
  }
}

/** One for as long as the part of the page is there. */
export function useAsking(): Asking {
  return useState(() => new Asking())[0];
}
