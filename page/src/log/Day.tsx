/** The last day's speed and heat, and power where machines report it. */
import type { VNode } from "preact";
import { arrivedHistory } from "../api/arrived";
import type { History, NodeHistory } from "../api/contract";
import { usePolled } from "../parts/polled";
import { Refusal } from "../parts/Refusal";
import { text } from "../preferences";
import { Chart, type Series } from "./Chart";
import { stretchesOf } from "./chart";

const EVERY_S = 60;
const ENOUGH_POINTS = 2;

export function Day(): VNode {
  const t = text.value.log;
  const history = usePolled<History>("page/history", arrivedHistory, () => EVERY_S);
  const { value: found } = history;
  return (
    <section class="stack" aria-labelledby="day-title">
      <h2 id="day-title">{t.day}</h2>
      <Refusal problem={history.problem} />
      {found !== null && found.points.length < ENOUGH_POINTS && <p class="quiet">{t.noHistory}</p>}
      {found !== null && found.points.length >= ENOUGH_POINTS && <Charts history={found} />}
    </section>
  );
}

function Charts({ history }: { readonly history: History }): VNode {
  const t = text.value.log;
  const { points, every_s } = history;
  const speeds: Series[] = [
    {
      name: t.generation,
      samples: points.map(({ at, generated_per_s: value }) => ({ at, value })),
    },
    { name: t.prompt, samples: points.map(({ at, prompt_per_s: value }) => ({ at, value })) },
  ];
  const heat = nodeSeries(history, ({ temperature_c }) => temperature_c);
  const watts = nodeSeries(history, ({ watts: value }) => value);
  const joules: Series[] = [
    {
      name: t.joules,
      samples: points.map(({ at, joules_per_token: value }) => ({ at, value })),
    },
  ].filter(({ samples }) => samples.some(({ value }) => value !== null));
  const throttled = points.map(({ at, nodes }) => ({
    at,
    isSo: Object.values(nodes).some((node) => node.throttled === true),
  }));
  return (
    <div class="charts">
      <Chart title={t.speed} unit="tok/s" series={speeds} every_s={every_s} fromZero={true} />
      {heat.length > 0 && (
        <Chart
          title={t.temperature}
          unit="°C"
          series={heat}
          every_s={every_s}
          fromZero={false}
          bands={{ name: t.throttledShown, stretches: stretchesOf(throttled, every_s) }}
        />
      )}
      {watts.length > 0 && (
        <Chart title={t.watts} unit="W" series={watts} every_s={every_s} fromZero={true} />
      )}
      {joules.length > 0 && (
        <Chart
          title={t.joules}
          unit="J"
          series={joules}
          every_s={every_s}
          fromZero={true}
          note={t.joulesIs}
        />
      )}
    </div>
  );
}

/** Return a line for every machine that has ever reported this. */
function nodeSeries(
  { points }: History,
  pick: (node: NodeHistory) => number | null,
): readonly Series[] {
  const names = [...new Set(points.flatMap(({ nodes }) => Object.keys(nodes)))];
  return names
    .map((name) => ({
      name,
      samples: points.map(({ at, nodes }) => {
        const node = Object.hasOwn(nodes, name) ? nodes[name] : undefined;
        return { at, value: node === undefined ? null : pick(node) };
      }),
    }))
    .filter(({ samples }) => samples.some(({ value }) => value !== null));
}
