/** Lays links out: how wide each is, in what order they are drawn, and where their figures stand. Pure. */
import type { Link } from "../api/contract";
import { type LinkPlace, NODE_RADIUS, NODE_TEXT_PX, type NodePlace, type Point } from "./drawing";

const THINNEST_PX = 2;
const THICKEST_PX = 24;
const NARROW = 0.25; // of the wait's wide end
const MOST_LABELS = 6; // if there are more links, the longest times have them
const LEAST_FULL_S = 0.002; // a shorter time is not drawn as if it were much

export function linksOf(
  links: readonly Link[],
  places: readonly NodePlace[],
  labels: Labels,
): readonly LinkPlace[] {
  const at = new Map(places.map((place) => [place.node.name, place]));
  const longest_s = Math.max(LEAST_FULL_S, ...links.map(timeOn));
  const px_per_s = THICKEST_PX / longest_s;
  // The longest gets its label first, and is drawn last, over the others.
  const drawn = [...links]
    .sort((a, b) => timeOn(b) - timeOn(a))
    .flatMap((link): LinkPlace[] => {
      const from = at.get(link.between[0]);
      const to = at.get(link.between[1]);
      if (from === undefined || to === undefined) return [];
      const isUp = from.node.is_up && to.node.is_up;
      return [
        {
          link,
          from,
          to,
          ...widthsOf(link, px_per_s),
          strength: timeOn(link) / longest_s,
          label: isUp ? labels.place(from, to) : null,
          isUp,
        },
      ];
    });
  return drawn.reverse();
}

/** Return the seconds of a token that pass on a link, waiting or on the wire. */
export function timeOn({ wait_s_per_token, wire_s_per_token }: Link): number {
  return (wait_s_per_token ?? 0) + (wire_s_per_token ?? 0);
}

function widthsOf(link: Link, px_per_s: number): Pick<LinkPlace, "wire_px" | "from_px" | "to_px"> {
  const wire_px = Math.max(THINNEST_PX, (link.wire_s_per_token ?? 0) * px_per_s);
  const wait_px = (link.wait_s_per_token ?? 0) * px_per_s;
  const wide = wire_px + wait_px;
  const narrow = wire_px + wait_px * NARROW;
  const waits = waitingEnd(link);
  return { wire_px, from_px: waits === 1 ? narrow : wide, to_px: waits === 0 ? narrow : wide };
}

/** Return which end of a link waits for the other, 0 or 1; null if neither, or if that is not known. */
export function waitingEnd({ waits, ranks }: Link): 0 | 1 | null {
  if (waits === null || ranks === undefined) return null;
  return waits === ranks[0] ? 0 : 1;
}

/** Return the name of the machine that waits. */
export function waiterOf(link: Link): string | null {
  const end = waitingEnd(link);
  return end === null ? null : link.between[end];
}

interface Box {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

/** Finds room for labels: none lies on another, nor on a machine. */
export class Labels {
  readonly #taken: Box[];
  readonly #half: Point;
  #rest = MOST_LABELS;

  constructor(places: readonly NodePlace[], isRoomy: boolean) {
    this.#half = isRoomy ? { x: 68, y: 20 } : { x: 34, y: 12 };
    this.#taken = places.map(({ x, y, isTextAbove }) => ({
      left: x - NODE_RADIUS - 12,
      top: y - NODE_RADIUS - (isTextAbove ? NODE_TEXT_PX : 4),
      right: x + NODE_RADIUS + 12,
      bottom: y + NODE_RADIUS + (isTextAbove ? 4 : NODE_TEXT_PX),
    }));
  }

  get half(): Point {
    return this.#half;
  }

  place(from: Point, to: Point): Point | null {
    if (this.#rest === 0) return null;
    for (const part of [0.5, 0.42, 0.58, 0.35, 0.65, 0.28, 0.72]) {
      const point = { x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part };
      const box = this.#box(point);
      if (!this.#taken.some((other) => overlap(box, other))) {
        this.#taken.push(box);
        this.#rest -= 1;
        return point;
      }
    }
    return null;
  }

  #box({ x, y }: Point): Box {
    const half = this.#half;
    return { left: x - half.x, top: y - half.y, right: x + half.x, bottom: y + half.y };
  }
}

function overlap(a: Box, b: Box): boolean {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
