import type { en } from "./en";

export type Language = "en" | "ko";

/** Every text of the page. English has the keys; a language that lacks one does not compile. */
export type Texts = typeof en;
