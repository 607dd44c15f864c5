/** What a person has chosen for this browser: language and colours. */
import { computed, effect, signal } from "@preact/signals";
import { en } from "./text/en";
import { ko } from "./text/ko";
import type { Language, Texts } from "./text/texts";

export type Theme = "auto" | "light" | "dark";

const TEXTS: Readonly<Record<Language, Texts>> = { en, ko };

export function read(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // a browser that keeps nothing
  }
}

export function keep(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // It is chosen for this visit alone.
  }
}

/** Return the first of the wanted languages that the page has. */
export function chooseLanguage(stored: string | null, wanted: readonly string[]): Language {
  const known = [stored ?? "", ...wanted].map((tag) => tag.slice(0, 2).toLowerCase());
  const found = known.find((tag): tag is Language => Object.hasOwn(TEXTS, tag));
  return found ?? "en";
}

function chooseTheme(stored: string | null): Theme {
  return stored === "light" || stored === "dark" ? stored : "auto";
}

const wanted = globalThis.navigator?.languages ?? []; // tests have no browser
export const language = signal<Language>(chooseLanguage(read("dure.language"), wanted));
export const theme = signal<Theme>(chooseTheme(read("dure.theme")));

/** The page's texts, in the language that is chosen. */
export const text = computed(() => TEXTS[language.value]);

/** Put the choices into the document, and keep them. */
export function applyPreferences(): void {
  effect(() => {
    document.documentElement.lang = language.value;
    keep("dure.language", language.value);
  });
  effect(() => {
    document.documentElement.dataset["theme"] = theme.value;
    keep("dure.theme", theme.value);
  });
}
