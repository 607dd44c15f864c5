/**
 * Lays machines and links out on a drawing: machines on an ellipse, the root at its top. Pure.
 */
import type { ClusterNode, Link } from "../api/contract";
import { type Drawing, NODE_RADIUS, NODE_TEXT_PX, type NodePlace } from "./drawing";
import { Labels, linksOf } from "./link_layout";

const MARGIN_PX = 10;
const WIDEST_PX = 760; // of the ellipse
const WIDE_PX = 520;

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
