/** What a drawing of the cluster consists of. Sizes are pixels. */
import type { ClusterNode, Link } from "../api/contract";

export const NODE_RADIUS = 36;
export const NODE_TEXT_PX = 42; // two lines above or under a machine

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
  /** Of the line of the wire. */
  readonly wire_px: number;
  /** Of the band of the wait around it, at both ends: it is wide where a machine waits for the other. */
  readonly from_px: number;
  readonly to_px: number;
  /** Of the longest time on a link, 0 to 1. */
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
  /** Half of a label's size. */
  readonly labelHalf: Point;
}
