/** What the server says, in the page's language. Other languages' sentences are loaded when they are wanted. */
import { effect, signal } from "@preact/signals";
import { language } from "../preferences";
import { type Said, Translator } from "./translator";

const translator = signal<Translator | null>(null);

export interface Told {
  readonly text: string;
  readonly cure: string | null;
}

/** Load the sentences of the language that is chosen, now and whenever another one is. */
export function followLanguage(): void {
  effect(() => {
    if (language.value === "ko") void loadKorean();
  });
}

async function loadKorean(): Promise<void> {
  try {
    const { default: sentences } = await import("./sentences.ko.json");
    translator.value ??= new Translator(sentences);
  } catch {
    // The server is gone, or another version: its sentences stay English.
  }
}

function wanted(): Translator | null {
  return language.value === "en" ? null : translator.value;
}

/** Return a sentence of the server and what cures it. */
export function told(said: Said): Told {
  return wanted()?.said(said) ?? said;
}

/** Return a text of the server, as an error. */
export function toldText(english: string): string {
  return wanted()?.text(english) ?? english;
}

/** Return why a router has chosen. */
export function toldRoute(reason: string): string {
  return wanted()?.route(reason) ?? reason;
}
