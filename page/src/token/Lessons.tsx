/** How the machine works, with this token's figures. */
import type { VNode } from "preact";
import type { TokenTrace } from "../api/contract";
import { bytes, count, machine, percent, short } from "../format";
import { text } from "../preferences";
import { taught } from "../text/lessons";
import type { LessonFigures } from "../text/lessons.en";
import { COMPUTING, timesOf, total } from "./anatomy";

export function Lessons({ trace }: { readonly trace: TokenTrace | null }): VNode {
  const t = text.value.token;
  const figures = trace === null ? null : figuresOf(trace);
  return (
    <section aria-labelledby="lessons-title" class="stack">
      <h2 id="lessons-title">{t.learn}</h2>
      <ol class="lessons">
        {taught.value.lessons.map((lesson) => {
          const here = figures === null ? null : lesson.here(figures);
          return (
            <li key={lesson.title} class="card">
              <h3>{lesson.title}</h3>
              {lesson.paragraphs.map((paragraph) => (
                <p key={paragraph}>{paragraph}</p>
              ))}
              {here && <p class="here">{here}</p>}
            </li>
          );
        })}
      </ol>
    </section>
  );
}

function figuresOf(trace: TokenTrace): LessonFigures {
  const { sums, bytes_sent } = trace;
  const hasSums = trace.n_ranks > 1 && sums !== null && sums > 0;
  return {
    ...memoryFigures(trace),
    ...waitFigures(trace),
    sums: hasSums ? count(sums) : null,
    sent: bytes_sent === null ? null : bytes(bytes_sent),
    perSum: hasSums && bytes_sent !== null ? bytes(bytes_sent / sums) : null,
  };
}

/** Of the rank with the most weights. */
function memoryFigures(
  trace: TokenTrace,
): Pick<LessonFigures, "weights" | "computing" | "bandwidth"> {
  const held = trace.weights_bytes ?? [];
  const most = Math.max(...held);
  const own = trace.ranks[held.indexOf(most)];
  if (own === undefined) {
    return { weights: null, computing: null, bandwidth: null };
  }
  const computing_s = total(timesOf(own.intervals), COMPUTING);
  return {
    weights: bytes(most),
    computing: short(computing_s),
    bandwidth: computing_s > 0 ? `${bytes(most / computing_s)}/s` : null,
  };
}

function waitFigures(trace: TokenTrace): Pick<LessonFigures, "wait" | "waitsMost" | "waitsLeast"> {
  const waits = trace.ranks
    .map(({ node, intervals }) => ({ node, wait_s: timesOf(intervals).get("wait") ?? 0 }))
    .sort((a, b) => b.wait_s - a.wait_s);
  const most = waits[0];
  const least = waits.at(-1);
  if (most === undefined || least === undefined || waits.length < 2 || most.wait_s === 0) {
    return { wait: null, waitsMost: null, waitsLeast: null };
  }
  return {
    wait: percent(most.wait_s / trace.token_s),
    waitsMost: machine(most.node),
    waitsLeast: machine(least.node),
  };
}
