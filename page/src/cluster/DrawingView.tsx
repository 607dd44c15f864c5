/** The cluster as a picture. */
import type { VNode } from "preact";
import { useRef } from "preact/hooks";
import type { ClusterNode, Link, State } from "../api/contract";
import { figure, machine, percent, short } from "../format";
import { custom } from "../parts/Meter";
import { useWidth } from "../parts/size";
import { text } from "../preferences";
import { type Drawing, type LinkPlace, NODE_RADIUS, type NodePlace } from "./drawing";
import { drawingOf } from "./layout";
import { timeOn, waitingEnd } from "./link_layout";
import { arc, level, wedge } from "./shapes";

const RING = NODE_RADIUS - 3;
const DISC = NODE_RADIUS - 8;
const HOT_C = 80;
const LETTER_PX = 8;
const BESIDE_PX = 12; // that a name may stand out

export function DrawingView({ state }: { readonly state: State }): VNode {
  const t = text.value.cluster;
  const frame = useRef<HTMLDivElement>(null);
  const width = useWidth(frame);
  const { nodes, links } = state;
  const drawing = drawingOf(nodes, links, width);
  return (
    <div class="drawing" ref={frame}>
      {width > 0 && (
        <svg
          viewBox={`0 0 ${drawing.width} ${drawing.height}`}
          height={drawing.height}
          role="img"
          aria-label={t.drawing(nodes.length, links.length)}
        >
          {drawing.links.map((place) => (
            <LinkLine key={place.link.between.join(" ")} place={place} />
          ))}
          {drawing.links.map((place) => (
            <LinkLabel key={place.link.between.join(" ")} place={place} drawing={drawing} />
          ))}
          {drawing.nodes.map((place) => (
            <NodeMark key={place.node.name} place={place} width={drawing.width} />
          ))}
        </svg>
      )}
      {links.length > 0 && (
        <p class="legend">
          <span>
            <i class="swatch" style={custom("--swatch", "var(--wait)")} />
            {t.wait}
          </span>
          {links.length === 1 && (
            <span>
              <i class="swatch" style={custom("--swatch", "var(--wire)")} />
              {t.wire}
            </span>
          )}
          <span>{t.wideIs}</span>
          {links.length > 1 && (
            <span>
              {t.overlap}
              {state.wire_s_per_token !== null && ` ${t.wireOfAll(short(state.wire_s_per_token))}`}
            </span>
          )}
        </p>
      )}
    </div>
  );
}

function LinkLine({ place }: { readonly place: LinkPlace }): VNode {
  const { from, to, link } = place;
  const ends = { x1: from.x, y1: from.y, x2: to.x, y2: to.y };
  return (
    <g class={place.isUp ? "link-line" : "link-line down"}>
      <title>{sayLink(link)}</title>
      <g opacity={0.2 + 0.8 * place.strength}>
        <path class="link-band" d={wedge(place)} />
        {place.wire_px > 0 && <line class="link-core" {...ends} stroke-width={place.wire_px} />}
      </g>
    </g>
  );
}

/** Who waits for whom, if that is known. */
function sayLink(link: Link): string {
  const t = text.value.cluster;
  const [a, b] = [machine(link.between[0]), machine(link.between[1])];
  const wait = short(link.wait_s_per_token);
  const end = waitingEnd(link);
  if (end === null) return t.linkIs(a, b, wait);
  return end === 0 ? t.waitsFor(a, b, wait) : t.waitsFor(b, a, wait);
}

function LinkLabel({ place, drawing }: { place: LinkPlace; drawing: Drawing }): VNode | null {
  const { label, link } = place;
  if (label === null || (timeOn(link) === 0 && link.mbit_per_s === null)) return null;
  const { isRoomy, labelHalf } = drawing;
  const detail = [
    link.mbit_per_s === null ? null : `${figure(link.mbit_per_s)} Mbit/s`,
    link.round_trip_us === null ? null : short(link.round_trip_us / 1e6),
  ].filter((part) => part !== null);
  return (
    <g transform={`translate(${label.x} ${label.y})`} aria-hidden="true">
      <rect
        class="link-label"
        x={-labelHalf.x}
        y={-labelHalf.y}
        width={2 * labelHalf.x}
        height={2 * labelHalf.y}
        rx={8}
      />
      <text y={isRoomy && detail.length > 0 ? -2 : 4.5}>
        <LinkTimes link={link} isRoomy={isRoomy} />
      </text>
      {isRoomy && (
        <text class="detail" y={13}>
          {detail.join(" · ")}
        </text>
      )}
    </g>
  );
}

/** Wait and wire, or the longer of them where there is little room. */
function LinkTimes({ link, isRoomy }: { link: Link; isRoomy: boolean }): VNode {
  const { wait_s_per_token: wait_s, wire_s_per_token: wire_s } = link;
  const hasWait = wait_s !== null && (isRoomy || wait_s >= (wire_s ?? 0));
  const hasWire = wire_s !== null && (isRoomy || !hasWait);
  return (
    <>
      {hasWait && <tspan class="link-wait">{short(wait_s)}</tspan>}
      {hasWait && hasWire && " · "}
      {hasWire && <tspan class="link-wire">{short(wire_s)}</tspan>}
    </>
  );
}

function NodeMark({ place, width }: { place: NodePlace; width: number }): VNode {
  const { node, isTextAbove } = place;
  const filled = memoryFilled(node);
  const isHot = (node.temperature_c ?? 0) >= HOT_C || node.throttled === true;
  return (
    <g
      class={`node${node.is_up ? "" : " down"}${node.throttled === true ? " throttled" : ""}`}
      transform={`translate(${place.x} ${place.y})`}
      aria-hidden="true"
    >
      <circle class="node-disc" r={NODE_RADIUS} />
      <path class="node-level" d={level(DISC, node.share ?? 0)} />
      <circle class="node-ring" r={RING} />
      {filled !== null && <path class="node-memory" d={arc(RING, filled)} />}
      <text class="node-share" y={5}>
        {node.share === null ? "" : percent(node.share)}
      </text>
      <text class="node-name" y={isTextAbove ? -NODE_RADIUS - 24 : NODE_RADIUS + 17}>
        {shortened(machine(node.name), place.x, width)}
      </text>
      <text
        class={isHot ? "detail hot" : "detail"}
        y={isTextAbove ? -NODE_RADIUS - 9 : NODE_RADIUS + 33}
      >
        {underName(node)}
      </text>
    </g>
  );
}

/** Return as much of a name as fits at a place; the list below has it all. */
function shortened(name: string, x: number, width: number): string {
  const room = Math.floor((2 * (Math.min(x, width - x) + BESIDE_PX)) / LETTER_PX);
  return name.length <= room ? name : `${name.slice(0, Math.max(1, room - 1))}…`;
}

function underName(node: ClusterNode): string {
  const t = text.value.cluster;
  if (!node.is_up) return t.down;
  const parts = [node.is_root ? t.root : null, node.throttled === true ? t.throttled : null];
  if (node.temperature_c !== null) parts.push(`${Math.round(node.temperature_c)} °C`);
  return parts.filter((part) => part !== null).join(" · ");
}

export function memoryFilled(node: ClusterNode): number | null {
  if (node.memory_bytes === null || node.available_bytes === null || node.memory_bytes === 0)
    return null;
  return 1 - node.available_bytes / node.memory_bytes;
}
