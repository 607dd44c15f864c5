/** The layers of a token as columns, each divided into its parts. */
import type { VNode } from "preact";
import { useRef } from "preact/hooks";
import { short } from "../format";
import { useWidth } from "../parts/size";
import { text } from "../preferences";
import { type Layer, PARTS, total } from "./anatomy";
import { chosenLayer, chosenPart, pointedPart } from "./tracing";

const HEIGHT_PX = 150;
const FOOT_PX = 18;

export function Columns({ layers }: { readonly layers: readonly Layer[] }): VNode {
  const t = text.value.token;
  const frame = useRef<HTMLDivElement>(null);
  const width = useWidth(frame);
  const longest = Math.max(1e-9, ...layers.map(({ times }) => total(times)));
  const every = width / Math.max(1, layers.length);
  const shown = pointedPart.value ?? chosenPart.value;
  return (
    <div class="columns" ref={frame}>
      {width > 0 && (
        <svg
          class={shown === null ? "" : "choosing"}
          viewBox={`0 0 ${width} ${HEIGHT_PX + FOOT_PX}`}
          height={HEIGHT_PX + FOOT_PX}
          role="img"
          aria-label={t.byLayerIs}
        >
          {layers.map((layer, i) => (
            <g
              key={layer.layer}
              class={layer.layer === chosenLayer.value ? "column chosen" : "column"}
              transform={`translate(${i * every} 0)`}
              onClick={() => (chosenLayer.value = layer.layer)}
            >
              <title>{t.layerTime(layer.layer, short(total(layer.times)))}</title>
              <rect class="hit" width={every} height={HEIGHT_PX + FOOT_PX} rx={3} />
              <Stack layer={layer} width={every} longest={longest} />
              {isNamed(i, every) && (
                <text x={every / 2} y={HEIGHT_PX + 14} text-anchor="middle">
                  {layer.layer}
                </text>
              )}
            </g>
          ))}
        </svg>
      )}
    </div>
  );
}

function isNamed(i: number, every_px: number): boolean {
  return i % Math.ceil(26 / every_px) === 0;
}

function Stack({ layer, width, longest }: { layer: Layer; width: number; longest: number }): VNode {
  const shown = pointedPart.value ?? chosenPart.value;
  const gap = Math.min(3, width * 0.15);
  let bottom = HEIGHT_PX;
  return (
    <>
      {PARTS.map((part) => {
        const height = ((layer.times.get(part) ?? 0) / longest) * (HEIGHT_PX - 4);
        bottom -= height;
        return (
          height > 0 && (
            <rect
              key={part}
              class={`part part-${part}${part === shown ? " chosen" : ""}`}
              x={gap}
              y={bottom}
              width={Math.max(1, width - 2 * gap)}
              height={height}
            />
          )
        );
      })}
    </>
  );
}
