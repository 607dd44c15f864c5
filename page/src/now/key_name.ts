import type { Known } from "../api/contract";
import { text } from "../preferences";

/** Return whose a request is: its key's, or, where there are no keys, the address that it comes from. */
export function keyName(owner: Known<string>): string {
  if (owner === null || owner === "" || owner === "@") return text.value.now.noKey;
  return owner.replace(/^@/, "");
}
