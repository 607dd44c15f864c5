/**
 * Lays machines and links out on a drawing: machines on an ellipse, the root at its top; a link's band is as wide
 * as a token waits on it. Pure: sizes in pixels.
 */
import type { ClusterNode, Link } from "../api/contract";

export interface Point {
  readonly x: number;
  readonly y: number;
}

export interface NodePlace extends Point {
  readonly node: ClusterNode;
  /** Whether its text stands above it: always on the outer side, where no link passes. */
  readonly isTextAbove: boolean;
}

export interface LinkPlace {
  readonly link: Link;
  readonly from: Point;
  readonly to: Point;
  /** Of the band that shows the wait, at both of its ends: it is wide where a machine waits for the other. */
  readonly from_px: number;
  readonly to_px: number;
  /** Of the line of the wire within it. */
  readonly wire_px: number;
  /** Of the longest wait, 0 to 1. */
  readonly strength: number;
  /** Where its figures stand; null where there is no room. */
  readonly label: Point | null;
  /** Whether both machines answer. */
  readonly isUp: boolean;
}

export interface Drawing {
  readonly width: number;
  readonly height: number;
  readonly nodes: readonly NodePlace[];
  readonly links: readonly LinkPlace[];
  /** Whether there is room for a second line of figures on a link. */
  readonly isRoomy: boolean;
  /** Of a label's size. */
  readonly labelHalf: Point;
}

export const NODE_RADIUS = 36;

const NODE_TEXT_PX = 42; // two lines under a machine
const MARGIN_PX = 10;
const WIDEST_PX = 760; // of the ellipse
const WIDE_PX = 520;
const THINNEST_PX = 2;
const THICKEST_PX = 22;
const MOST_LABELS = 6; // if there are more links, the longest waits have them
const LEAST_FULL_WAIT_S = 0.002; // a shorter one is not drawn as if it were much

export function drawingOf(
  nodes: readonly ClusterNode[],
  links: readonly Link[],
  width: number,
): Drawing {
  const places = placesOf(nodes, width);
  const lowest = Math.max(0, ...places.map((place) => bottomOf(place)));
  const height = lowest + MARGIN_PX;
  const isRoomy = width >= WIDE_PX && nodes.length <= 4;
  const labels = new Labels(places, isRoomy);
  return {
    width,
    height,
    nodes: places,
    links: linksOf(links, places, labels),
    isRoomy,
    labelHalf: labels.half,
  };
}

function bottomOf({ y, isTextAbove }: NodePlace): number {
  return y + NODE_RADIUS + (isTextAbove ? 0 : NODE_TEXT_PX);
}

function placesOf(nodes: readonly ClusterNode[], width: number): readonly NodePlace[] {
  const isWide = width >= WIDE_PX;
  const ordered = [...nodes].sort((a, b) => Number(b.is_root) - Number(a.is_root));
  if (nodes.length === 1 || (nodes.length === 2 && isWide)) return inARow(ordered, width);
  const side = NODE_RADIUS + MARGIN_PX + 8;
  const top = NODE_RADIUS + NODE_TEXT_PX + MARGIN_PX;
  const across = nodes.length === 2 ? 0 : Math.min(WIDEST_PX, width - 2 * side) / 2;
  const down = ellipseHeight(nodes.length, isWide);
  return ordered.map((node, i) => {
    const angle = (2 * Math.PI * i) / nodes.length - Math.PI / 2;
    return {
      node,
      x: width / 2 + across * Math.cos(angle),
      y: top + down * (1 + Math.sin(angle)),
      isTextAbove: Math.sin(angle) < -0.01,
    };
  });
}

function inARow(nodes: readonly ClusterNode[], width: number): readonly NodePlace[] {
  const apart = Math.min(WIDEST_PX, width) * 0.7;
  return nodes.map((node, i) => ({
    node,
    x: width / 2 + (i - (nodes.length - 1) / 2) * apart,
    y: NODE_RADIUS + MARGIN_PX + 24,
    isTextAbove: false,
  }));
}

/** Return half of the ellipse's height. */
function ellipseHeight(n: number, isWide: boolean): number {
  if (n === 2) return 110;
  return isWide ? 120 + 16 * Math.min(n, 8) : 110 + 22 * Math.min(n, 10);
}

function linksOf(
  links: readonly Link[],
  places: readonly NodePlace[],
  labels: Labels,
): readonly LinkPlace[] {
  const at = new Map(places.map((place) => [place.node.name, place]));
  const longest = Math.max(
    LEAST_FULL_WAIT_S,
    ...links.map(({ wait_s_per_token }) => wait_s_per_token ?? 0),
  );
  const byWait = [...links].sort((a, b) => (a.wait_s_per_token ?? 0) - (b.wait_s_per_token ?? 0));
  // The longest wait gets its label first, and is drawn last, over the others.
  const drawn = byWait.reverse().flatMap((link): LinkPlace[] => {
    const from = at.get(link.between[0]);
    const to = at.get(link.between[1]);
    if (from === undefined || to === undefined) return [];
    const isUp = from.node.is_up && to.node.is_up;
    return [
      {
        link,
        from,
        to,
        ...ends(link, band(link.wait_s_per_token, longest)),
        wire_px: link.wire_s_per_token === null ? 0 : band(link.wire_s_per_token, longest) - 1,
        strength: Math.min(1, (link.wait_s_per_token ?? 0) / longest),
        label: isUp ? labels.place(from, to) : null,
        isUp,
      },
    ];
  });
  return drawn.reverse();
}

function band(seconds: number | null, longest_s: number): number {
  return THINNEST_PX + (THICKEST_PX - THINNEST_PX) * Math.min(1, (seconds ?? 0) / longest_s);
}

const NARROW = 0.25; // of the wide end

function ends(link: Link, wide_px: number): Pick<LinkPlace, "from_px" | "to_px"> {
  const narrow_px = Math.max(THINNEST_PX, NARROW * wide_px);
  const waits = waitingEnd(link);
  return { from_px: waits === 1 ? narrow_px : wide_px, to_px: waits === 0 ? narrow_px : wide_px };
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

/** Return the outline of a band that is as wide at its ends as is said. */
export function wedge({ from, to, from_px, to_px }: LinkPlace): string {
  const length = Math.max(1e-6, Math.hypot(to.x - from.x, to.y - from.y));
  const across = { x: -(to.y - from.y) / length, y: (to.x - from.x) / length };
  const corner = (end: Point, width: number): string =>
    `${(end.x + across.x * width).toFixed(1)} ${(end.y + across.y * width).toFixed(1)}`;
  const corners = [
    corner(from, from_px / 2),
    corner(to, to_px / 2),
    corner(to, -to_px / 2),
    corner(from, -from_px / 2),
  ];
  return `M${corners.join("L")}Z`;
}

interface Box {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

/** Finds room for labels: none lies on another, nor on a machine. */
class Labels {
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

/** Return the path of an arc that begins at the top and goes clockwise around a part of the circle. */
export function arc(radius: number, part: number): string {
  const angle = 2 * Math.PI * Math.min(0.9999, Math.max(0, part));
  const x = radius * Math.sin(angle);
  const y = -radius * Math.cos(angle);
  return `M0 ${-radius}A${radius} ${radius} 0 ${angle > Math.PI ? 1 : 0} 1 ${x.toFixed(2)} ${y.toFixed(2)}`;
}

/** Return the path of the lower part of a disc, filled to a level. */
export function level(radius: number, part: number): string {
  const y = radius * (1 - 2 * Math.min(1, Math.max(0, part)));
  const x = Math.sqrt(Math.max(0, radius * radius - y * y));
  const large = y < 0 ? 1 : 0;
  return `M${(-x).toFixed(2)} ${y.toFixed(2)}A${radius} ${radius} 0 ${large} 0 ${x.toFixed(2)} ${y.toFixed(2)}Z`;
}
