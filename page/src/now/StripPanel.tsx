/** The moving strip: what every rank does with each token's time, with its legend and its table. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Step } from "../api/contract";
import { state, steps } from "../api/feed";
import type { StepHistory } from "../api/steps";
import { bytes, machine, percent, short } from "../format";
import { custom } from "../parts/Meter";
import { useWidth } from "../parts/size";
import { Scrolled } from "../parts/Scrolled";
import { text } from "../preferences";
import { drawStrip } from "./draw_strip";
import { lengthOf, meansOf, stepAt, stripOf, type Window } from "./strip";

const SPANS_S = [1, 5, 20, 60];
const BEHIND_S = 0.8; // steps arrive every half second: drawn a little later, they move evenly
const SLOW_FRAME_MS = 500; // for who wants less motion
const TABLE_EVERY_MS = 1000;

export function StripPanel(): VNode {
  const t = text.value.now;
  const span_s = useSignal(5);
  const paused = useSignal<Paused | null>(null);
  const isPaused = paused.value !== null;
  const n_ranks = state.value?.server.n_ranks ?? steps.n_ranks;
  const toggle = (): void => {
    paused.value = isPaused ? null : { at: steps.serverTime() - BEHIND_S, known: steps.copy() };
  };
  return (
    <section class="card" aria-labelledby="strip-title">
      <header class="row spread">
        <div>
          <h2 id="strip-title">{t.strip}</h2>
          <p class="quiet small-text">{t.stripIs}</p>
        </div>
        <div class="row">
          <span class="quiet small-text">{t.window}</span>
          {SPANS_S.map((span) => (
            <button
              key={span}
              type="button"
              class="small"
              aria-pressed={span_s.value === span}
              onClick={() => (span_s.value = span)}
            >
              {span}
              {text.value.units.s}
            </button>
          ))}
          <button type="button" class="small" aria-pressed={isPaused} onClick={toggle}>
            {isPaused ? t.go : t.pause}
          </button>
        </div>
      </header>
      <Lanes n_ranks={n_ranks} span_s={span_s.value} paused={paused.value} />
      <StepTable n_ranks={n_ranks} span_s={span_s.value} paused={paused.value} />
    </section>
  );
}

/** A strip that stands still. */
interface Paused {
  /** The server's time at the right end. */
  readonly at: number;
  /** The steps until then, which are looked at for as long as one likes. */
  readonly known: StepHistory;
}

interface StripProps {
  readonly n_ranks: number;
  readonly span_s: number;
  /** null: it moves. */
  readonly paused: Paused | null;
}

function windowOf({ span_s, paused }: StripProps, width_px: number): Window {
  const until_s = paused?.at ?? steps.serverTime() - BEHIND_S;
  return { from_s: until_s - span_s, until_s, width_px };
}

/** Steps that overlap a window; one may end after it. */
function stepsIn({ paused }: StripProps, window: Window): readonly Step[] {
  return (paused?.known ?? steps).between(window.from_s, window.until_s + 1);
}

function Lanes(props: StripProps): VNode {
  const t = text.value.now;
  const frame = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const width_px = useWidth(frame);
  const isApart = useSignal(true);
  const pointed = useSignal<Step | null>(null);

  useEffect(() => {
    if (canvas.current === null || width_px === 0) return undefined;
    const drawn = canvas.current;
    return everyFrame(() => {
      const window = windowOf(props, width_px);
      const strip = stripOf(stepsIn(props, window), props.n_ranks, window);
      isApart.value = strip.isApart;
      drawStrip(drawn, strip, window);
    }, props.paused === null);
  }, [width_px, props.n_ranks, props.span_s, props.paused]);

  const point = (event: PointerEvent): void => {
    const window = windowOf(props, width_px);
    const at_s = window.from_s + (event.offsetX / width_px) * props.span_s;
    pointed.value = stepAt(stepsIn(props, window), at_s);
  };
  return (
    <>
      <div class="strip">
        <div class="strip-names" aria-hidden="true">
          {Array.from({ length: props.n_ranks }, (_, rank) => (
            <span key={rank} title={t.rank(rank)}>
              {nameOfRank(rank) ?? t.rank(rank)}
            </span>
          ))}
        </div>
        <div class="strip-frame" ref={frame}>
          <canvas
            ref={canvas}
            role="img"
            aria-label={t.strip}
            onPointerMove={point}
            onPointerLeave={() => (pointed.value = null)}
          />
        </div>
      </div>
      <p class="legend">
        <Key colour="--work" name={t.compute} />
        <Key colour="--wait" name={t.sync} />
        <Key colour="--idle" name={t.idle} />
        <Key colour="--read" name={t.prompts} />
        <span>{pointed.value === null ? "" : stepText(pointed.value)}</span>
      </p>
      {steps.isEmpty && <p class="quiet">{t.noSteps}</p>}
      {!isApart.value && <p class="quiet small-text">{t.merged}</p>}
    </>
  );
}

function Key({ colour, name }: { readonly colour: string; readonly name: string }): VNode {
  return (
    <span>
      <i class="swatch" style={custom("--swatch", `var(${colour})`)} />
      {name}
    </span>
  );
}

function stepText(step: Step): string {
  const t = text.value.now;
  const waits = step.ranks.map(
    ([, sync_s], rank) => `${nameOfRank(rank) ?? rank} ${short(sync_s)}`,
  );
  return `${t.stepAt(short(lengthOf(step)), step.n_tokens)} · ${t.sync}: ${waits.join(", ")}`;
}

function nameOfRank(rank: number): string | null {
  const nodes = state.value?.nodes ?? [];
  const node = nodes.find(({ ranks }) => ranks.includes(rank));
  if (node === undefined) return null;
  return node.ranks.length === 1 ? machine(node.name) : `${node.name} ${rank}`;
}

function StepTable(props: StripProps): VNode {
  const t = text.value.now;
  const now = useSignal(0);
  useEffect(() => {
    const timer = setInterval(() => (now.value += 1), TABLE_EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  void now.value; // drawn again each second
  const window = windowOf(props, 1);
  const shown = (props.paused?.known ?? steps).between(window.from_s, window.until_s);
  return (
    <>
      <p class="quiet small-text step-table">
        {t.table} · {t.stepsShown(shown.length)}
      </p>
      <Scrolled label={t.table}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t.rankColumn}</th>
              <th scope="col" class="number">
                {t.compute}
              </th>
              <th scope="col" class="number">
                {t.sync}
              </th>
              <th scope="col" class="number">
                {t.idle}
              </th>
              <th scope="col" class="number">
                {t.bytesStep}
              </th>
            </tr>
          </thead>
          <tbody>
            {meansOf(shown, props.n_ranks).map((means, rank) => (
              <tr key={rank}>
                <th scope="row">{nameOfRank(rank) ?? t.rank(rank)}</th>
                <td class="number">{short(means.compute_s)}</td>
                <td class="number">
                  {short(means.sync_s)}{" "}
                  <span class="quiet">
                    ({percent(means.sync_s / (means.compute_s + means.sync_s))})
                  </span>
                </td>
                <td class="number">{short(means.idle_s)}</td>
                <td class="number">{bytes(means.bytes_sent)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolled>
    </>
  );
}

/** Call `draw` before every frame, or twice a second if little moves; return how to end it. */
function everyFrame(draw: () => void, isMoving: boolean): () => void {
  draw();
  if (!isMoving || matchMedia("(prefers-reduced-motion: reduce)").matches) {
    const timer = setInterval(draw, SLOW_FRAME_MS);
    return () => clearInterval(timer);
  }
  let frame = requestAnimationFrame(function next() {
    draw();
    frame = requestAnimationFrame(next);
  });
  return () => cancelAnimationFrame(frame);
}
