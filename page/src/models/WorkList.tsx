/** Work on models, whoever has begun it: how far it is, how fast, and how it ended. */
import type { VNode } from "preact";
import { ApiError, post } from "../api/client";
import type { Work } from "../api/contract";
import { bytes, count, figure, long, percent, short } from "../format";
import { Meter } from "../parts/Meter";
import { useAsking } from "../parts/asking";
import { Refusal } from "../parts/Refusal";
import { text } from "../preferences";
import { toldText } from "../text/told";
import { LossChart } from "./LossChart";

export function WorkList({ work }: { readonly work: readonly Work[] }): VNode {
  const t = text.value.models;
  const ended = work.filter(({ state }) => state !== "running");
  const said = ended.map(({ kind, name, state }) => t.ended(t.kind[kind], name, t.state[state]));
  return (
    <>
      {work.length > 0 && (
        <section class="card" aria-labelledby="work-title">
          <h2 id="work-title">{t.work}</h2>
          <ul class="work">
            {work.map((each) => (
              <WorkItem key={each.id} work={each} />
            ))}
          </ul>
        </section>
      )}
      <p class="unseen" role="status">
        {said.join(". ")}
      </p>
    </>
  );
}

function WorkItem({ work }: { readonly work: Work }): VNode {
  const t = text.value.models;
  const asking = useAsking();
  const isRunning = work.state === "running";
  const stop = (): Promise<void> =>
    asking.ask(() => post(`page/work/${encodeURIComponent(work.id)}/stop`));
  return (
    <li>
      <div class="row spread">
        <span>
          <span class="tag">{t.kind[work.kind]}</span> <b>{work.name}</b>{" "}
          <span class={work.state === "failed" ? "bad" : "quiet"}>{t.state[work.state]}</span>
        </span>
        {work.can_stop && (
          <button
            type="button"
            class="small"
            aria-label={t.stopOne(work.name)}
            onClick={() => void stop()}
          >
            {t.stop}
          </button>
        )}
      </div>
      {isRunning && (
        <Meter
          parts={[{ share: work.fraction ?? 0, kind: "work" }]}
          label={`${work.name}: ${percent(work.fraction)}`}
        />
      )}
      <p class="quiet small-text">{progress(work)}</p>
      {work.losses !== null && <LossChart name={work.name} losses={work.losses} />}
      {work.note !== null && <p class="small-text">{toldText(work.note)}</p>}
      {work.error !== null && <Refusal problem={new ApiError(0, work.error, work.cure)} />}
      <Refusal problem={asking.problem.value} />
    </li>
  );
}

/** Say how far work is: what is done now, how much of it, how fast, how long still. */
export function progress(work: Work): string {
  const t = text.value.models;
  const amount = (n: number | null): string => {
    if (work.unit === "bytes") return bytes(n);
    return work.unit === "steps" ? t.nSteps(count(n)) : t.tokens(count(n));
  };
  const said: string[] = [];
  if (work.state === "running" && work.phase !== null) said.push(t.phase[work.phase]);
  if (work.unit === "part") {
    if (work.state !== "done" && work.fraction !== null) said.push(percent(work.fraction));
  } else if (work.total !== null) said.push(t.of(amount(work.done), amount(work.total)));
  else if (work.done !== null) said.push(amount(work.done));
  if (work.state === "running") {
    if (work.per_s !== null && work.unit !== "part") said.push(speed(work, work.per_s, amount));
    if (work.rest_s !== null) said.push(t.rest(long(work.rest_s)));
  }
  return said.join(" · ");
}

function speed(work: Work, per_s: number, amount: (n: number) => string): string {
  const t = text.value.models;
  if (work.unit !== "steps") return t.perS(amount(per_s));
  return per_s < 1 ? t.perStep(short(1 / per_s)) : t.perS(t.nSteps(figure(per_s)));
}
