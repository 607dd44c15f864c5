/** Icons, drawn with lines on 24 by 24. */
import type { VNode } from "preact";
import type { Theme } from "../preferences";
import type { View } from "../route";

export type IconName = View | Theme | "key";

const PATHS: Readonly<Record<IconName, string>> = {
  cluster:
    "M6 7h12M6 7l6 11M18 7l-6 11M6 4a3 3 0 100 6 3 3 0 000-6zM18 4a3 3 0 100 6 3 3 0 000-6zM12 15a3 3 0 100 6 3 3 0 000-6z",
  now: "M3 7h7M13 7h8M3 12h10M16 12h5M3 17h5M11 17h10",
  token: "M4 20V9M9 20V4M14 20v-8M19 20V7",
  chat: "M4 5h16v11H10l-5 4v-4H4z",
  models: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  log: "M5 6h14M5 12h14M5 18h9",
  auto: "M12 3a9 9 0 100 18zM12 3a9 9 0 010 18",
  light:
    "M12 8a4 4 0 100 8 4 4 0 000-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M5 19l1.5-1.5M17.5 6.5L19 5",
  dark: "M20 14.5A8.5 8.5 0 019.5 4 8.5 8.5 0 1020 14.5z",
  key: "M8 11a4 4 0 100 8 4 4 0 000-8zM11 12l9-9M16 7l3 3",
};

export function Icon({ name }: { readonly name: IconName }): VNode {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
