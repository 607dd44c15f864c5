/** Draws a strip on a canvas. Knows pixels and colours; the layout is made elsewhere. */
import { clock } from "../format";
import type { BarKind, Strip, Window } from "./strip";
import { ticksOf } from "./strip";

export const LANE_PX = 34;
export const LANE_GAP_PX = 8;
export const AXIS_PX = 20;

const TICK_EVERY_PX = 160;

const COLOURS: Readonly<Record<BarKind, string>> = {
  compute: "--work",
  sync: "--wait",
  prompt: "--read",
};

export function stripHeight(n_lanes: number): number {
  return n_lanes * (LANE_PX + LANE_GAP_PX) + AXIS_PX;
}

export function drawStrip(canvas: HTMLCanvasElement, strip: Strip, window: Window): void {
  const pen = canvas.getContext("2d");
  if (pen === null) return;
  const height = stripHeight(strip.lanes.length);
  fit(canvas, pen, window.width_px, height);
  const style = getComputedStyle(canvas);
  const colour = (name: string): string => style.getPropertyValue(name);

  pen.clearRect(0, 0, window.width_px, height);
  strip.lanes.forEach((bars, lane) => {
    const y = lane * (LANE_PX + LANE_GAP_PX);
    pen.fillStyle = colour("--idle");
    pen.fillRect(0, y, window.width_px, LANE_PX);
    for (const kind of ["compute", "sync", "prompt"] as const) {
      pen.fillStyle = colour(COLOURS[kind]);
      for (const bar of bars) {
        if (bar.kind === kind) {
          pen.fillRect(bar.x, y + bar.top * LANE_PX, bar.width, bar.height * LANE_PX);
        }
      }
    }
  });
  drawAxis(pen, window, height, colour("--quiet"), colour("--line"));
}

function drawAxis(
  pen: CanvasRenderingContext2D,
  window: Window,
  height: number,
  ink: string,
  line: string,
): void {
  pen.font = "11px system-ui, sans-serif";
  const px_per_s = window.width_px / (window.until_s - window.from_s);
  for (const at of ticksOf(window, Math.max(2, window.width_px / TICK_EVERY_PX))) {
    const x = (at - window.from_s) * px_per_s;
    pen.fillStyle = line;
    pen.fillRect(x, height - AXIS_PX, 1, 6);
    pen.fillStyle = ink;
    const said = tickText(at);
    const isWhole = x + 4 + pen.measureText(said).width <= window.width_px;
    if (isWhole) pen.fillText(said, x + 4, height - 6);
  }
}

function tickText(at: number): string {
  const tenths = Math.round((at % 1) * 10) % 10;
  return clock(at, true) + (Math.abs(at - Math.round(at)) < 0.01 ? "" : `.${tenths}`);
}

/** Give the canvas as many pixels as the screen has for it. */
function fit(
  canvas: HTMLCanvasElement,
  pen: CanvasRenderingContext2D,
  width: number,
  height: number,
): void {
  const density = devicePixelRatio;
  if (
    canvas.width === Math.round(width * density) &&
    canvas.height === Math.round(height * density)
  )
    return;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  canvas.style.setProperty("height", `${height}px`);
  pen.setTransform(density, 0, 0, density, 0, 0);
}
