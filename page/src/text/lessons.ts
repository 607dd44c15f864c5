/** What the anatomy of a token teaches, in the language that is chosen. Its view alone needs it. */
import { computed } from "@preact/signals";
import { language } from "../preferences";
import * as en from "./lessons.en";
import * as ko from "./lessons.ko";
import type { Language } from "./texts";

/** English has the keys; a language that lacks one does not compile. */
type Taught = Pick<typeof en, "parts" | "lessons">;

export const TAUGHT: Readonly<Record<Language, Taught>> = { en, ko };

export const taught = computed(() => TAUGHT[language.value]);
