/** One machine in figures. */
import { Fragment, type VNode } from "preact";
import type { ClusterNode } from "../api/contract";
import { bytes, figure, machine, percent, short } from "../format";
import { Meter, type MeterPart } from "../parts/Meter";
import { text } from "../preferences";

export function NodeCard({ node }: { readonly node: ClusterNode }): VNode {
  const t = text.value.cluster;
  return (
    <li class="card node-card">
      <h3>
        <span class={`lamp ${node.is_up ? "good" : "bad"}`} aria-hidden="true" />
        {machine(node.name)}
        {node.is_root && <span class="tag">{t.root}</span>}
        {!node.is_up && <span class="tag bad">{t.down}</span>}
        {node.throttled === true && <span class="tag wait">{t.throttled}</span>}
      </h3>
      <p class="quiet small-text">
        {node.ranks.length === 0 ? t.noRank : t.rank(node.ranks)}
        {node.share !== null && ` · ${t.share(percent(node.share))}`}
      </p>
      <Memory node={node} />
      <dl class="facts">
        <Fact name={t.wait} value={node.wait_s_per_token} show={short} />
        <Fact name={t.temperature} value={node.temperature_c} show={(c) => `${figure(c)} °C`} />
        <Power node={node} />
        <Fact name={t.clock} value={node.clock_mhz} show={(mhz) => `${figure(mhz)} MHz`} />
        <Fact name={t.load} value={node.load} show={figure} />
        <Fact name={t.disk} value={node.disk_free_bytes} show={bytes} />
        <Fact name={t.processor} value={node.cpu} show={(cpu) => cpu} />
      </dl>
    </li>
  );
}

interface FactProps<T> {
  readonly name: string;
  readonly value: T | null;
  readonly show: (value: T) => string;
}

/** What is not known is left out: many machines lack one sensor or another. */
export function Fact<T>({ name, value, show }: FactProps<T>): VNode | null {
  if (value === null) return null;
  return (
    <>
      <dt>{name}</dt>
      <dd>{show(value)}</dd>
    </>
  );
}

/** What it draws, and of what that is measured; or why a sensor cannot be read. */
function Power({ node: { watts, watts_of, watts_problem } }: { node: ClusterNode }): VNode | null {
  const t = text.value.cluster;
  if (watts === null) return <Fact name={t.power} value={watts_problem} show={(why) => why} />;
  const of = watts_of === null ? "" : ` · ${t.powerOf[watts_of]}`;
  return <Fact name={t.power} value={watts} show={(w) => `${figure(w)} W${of}`} />;
}

function Memory({ node }: { readonly node: ClusterNode }): VNode | null {
  const t = text.value.cluster;
  const { memory_bytes, available_bytes, weights_bytes, kv_bytes } = node;
  if (memory_bytes === null || memory_bytes === 0) return null;
  const weights = weights_bytes ?? 0;
  const kv = kv_bytes ?? 0;
  const used = memory_bytes - (available_bytes ?? memory_bytes - weights - kv);
  const other = Math.max(0, used - weights - kv);
  const parts: MeterPart[] = [
    { share: weights / memory_bytes, kind: "work" },
    { share: kv / memory_bytes, kind: "kv" },
    { share: other / memory_bytes, kind: "other" },
  ];
  const said = [
    `${t.weights} ${bytes(weights)}`,
    `${t.kv} ${bytes(kv)}`,
    `${t.other} ${bytes(other)}`,
  ];
  const figures = [`${t.memory} ${bytes(memory_bytes)}`, ...said];
  if (available_bytes !== null) figures.push(`${t.free} ${bytes(available_bytes)}`);
  return (
    <div>
      <Meter parts={parts} label={`${t.memory}: ${said.join(", ")}`} />
      <p class="quiet small-text">
        {figures.map((each, i) => (
          <Fragment key={i}>
            {i > 0 && " · "}
            <span class="whole">{each}</span>
          </Fragment>
        ))}
      </p>
    </div>
  );
}
