/**
 * Conversations in the browser's storage: one entry for each, and one that lists them.
 * Knows a full or forbidden storage, and says so instead of losing anything quietly.
 */
import { type Conversation, titleOf } from "./conversation";

const LIST = "dure.chats";
const ENTRY = "dure.chat.";
const VERSION = 1;

export interface Summary {
  readonly id: string;
  readonly title: string | null;
  readonly changed: number;
}

export type Kept = "kept" | "full";

export class History {
  readonly #storage: Storage;

  constructor(storage: Storage) {
    this.#storage = storage;
  }

  /** Return what is kept, the latest first. */
  list(): readonly Summary[] {
    const found = this.#read(LIST);
    return Array.isArray(found) ? found.filter(isSummary) : [];
  }

  load(id: string): Conversation | null {
    const found = this.#read(ENTRY + id);
    return isConversation(found) ? found : null;
  }

  /** Keep a conversation; if the storage is full, the state before stays. */
  save(conversation: Conversation): Kept {
    const summary = {
      id: conversation.id,
      title: titleOf(conversation),
      changed: conversation.changed,
    };
    const others = this.list().filter(({ id }) => id !== conversation.id);
    const isKept =
      this.#write(ENTRY + conversation.id, { version: VERSION, ...conversation }) &&
      this.#write(
        LIST,
        [summary, ...others].sort((a, b) => b.changed - a.changed),
      );
    return isKept ? "kept" : "full";
  }

  remove(id: string): void {
    this.#storage.removeItem(ENTRY + id);
    this.#write(
      LIST,
      this.list().filter((summary) => summary.id !== id),
    );
  }

  removeAll(): void {
    for (const { id } of this.list()) this.#storage.removeItem(ENTRY + id);
    this.#storage.removeItem(LIST);
  }

  #read(name: string): unknown {
    try {
      return JSON.parse(this.#storage.getItem(name) ?? "null");
    } catch {
      return null; // not ours, or damaged
    }
  }

  #write(name: string, value: unknown): boolean {
    try {
      this.#storage.setItem(name, JSON.stringify(value));
      return true;
    } catch {
      return false; // QuotaExceededError; SecurityError where storage is forbidden
    }
  }
}

function isSummary(value: unknown): value is Summary {
  return typeof value === "object" && value !== null && "id" in value && "changed" in value;
}

function isConversation(value: unknown): value is Conversation {
  return (
    typeof value === "object" &&
    value !== null &&
    "version" in value &&
    value.version === VERSION &&
    "messages" in value &&
    Array.isArray(value.messages)
  );
}

/** Stands in for a storage that the browser forbids: kept until the page is closed. */
export class MemoryStorage implements Storage {
  readonly #entries = new Map<string, string>();

  get length(): number {
    return this.#entries.size;
  }
  clear(): void {
    this.#entries.clear();
  }
  getItem(key: string): string | null {
    return this.#entries.get(key) ?? null;
  }
  key(index: number): string | null {
    return [...this.#entries.keys()][index] ?? null;
  }
  removeItem(key: string): void {
    this.#entries.delete(key);
  }
  setItem(key: string, value: string): void {
    this.#entries.set(key, value);
  }
}
