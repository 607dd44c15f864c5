/** Outlines of what is drawn, as paths of SVG. Pure. */
import type { LinkPlace, Point } from "./drawing";

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
