/**
 * Makes characters seen that act on a reader without being seen: a terminal's escapes, and marks that turn the
 * direction of the text around what stands there ("Trojan Source", CVE-2021-42574). Pure.
 */

// Controls but tab and line feed; embeddings, overrides and isolates of direction. The two plain marks of
// direction, U+200E and U+200F, are left: languages written from right to left need them.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

export function visible(text: string): string {
  return text.replace(/\r\n?/g, "\n").replace(HIDDEN, nameOf);
}

function nameOf(character: string): string {
  return `⟨U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}
