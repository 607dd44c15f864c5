/** The requests that wait, are read and are answered. */
import { useSignal } from "@preact/signals";
import type { VNode } from "preact";
import { ApiError, post } from "../api/client";
import type { RunningRequest } from "../api/contract";
import { count, figure, long } from "../format";
import { Meter, type MeterPart } from "../parts/Meter";
import { text } from "../preferences";
import { keyName } from "./key_name";
import { toldRoute, toldText } from "../text/told";

export function Requests({ requests }: { readonly requests: readonly RunningRequest[] }): VNode {
  const t = text.value.now;
  return (
    <section class="card" aria-labelledby="requests-title">
      <h2 id="requests-title">{t.requests}</h2>
      {requests.length === 0 && (
        <p class="quiet">
          {t.none} <a href="#/chat">{t.tryChat}</a>
        </p>
      )}
      <ul class="requests">
        {requests.map((request) => (
          <RequestItem key={request.id} request={request} />
        ))}
      </ul>
    </section>
  );
}

function RequestItem({ request }: { readonly request: RunningRequest }): VNode {
  const t = text.value.now;
  const isCancelled = useSignal(false);
  const problem = useSignal<string | null>(null);
  const cancel = async (): Promise<void> => {
    isCancelled.value = true;
    try {
      await post(`page/requests/${encodeURIComponent(request.id)}/cancel`);
    } catch (error) {
      isCancelled.value = false;
      problem.value = error instanceof ApiError ? error.message : String(error);
    }
  };
  return (
    <li class={`request ${request.state}`}>
      <div class="row spread">
        <span>
          <b>{keyName(request.key)}</b> <span class="quiet">{t.state[request.state]}</span>
        </span>
        <span class="row">
          {request.tokens_per_s !== null && (
            <span>
              {figure(request.tokens_per_s)} <span class="quiet">{t.perS}</span>
            </span>
          )}
          <span class="quiet">{long(request.age_s)}</span>
          <button
            type="button"
            class="small"
            disabled={isCancelled.value}
            aria-label={t.cancelOne(request.id)}
            onClick={() => void cancel()}
          >
            {t.cancel}
          </button>
        </span>
      </div>
      <Meter parts={progressOf(request)} label={t.progress} />
      <p class="quiet small-text">
        {sayProgress(request)}
        {request.reason !== null && (
          <>
            {" · "}
            {t.route}: {routeOf(request)}, {toldRoute(request.reason)}
          </>
        )}
      </p>
      <p class="quiet mono request-id">{request.id}</p>
      {problem.value !== null && (
        <p class="note bad" role="alert">
          {toldText(problem.value)}
        </p>
      )}
    </li>
  );
}

function routeOf({ target }: RunningRequest): string {
  return target === null || target === "here" ? text.value.now.here : target;
}

/** The prompt in its colour while it is read; then the answer, as far as its limit is known. */
function progressOf(request: RunningRequest): readonly MeterPart[] {
  if (request.state === "waiting") return [];
  if (request.state === "reading") {
    return [{ share: ratio(request.processed, request.prompt_tokens), kind: "read" }];
  }
  return [{ share: ratio(request.tokens, request.max_tokens), kind: "work" }];
}

function ratio(part: number | null, whole: number | null): number {
  return part === null || whole === null || whole === 0 ? 0 : part / whole;
}

function sayProgress(request: RunningRequest): string {
  const t = text.value.now;
  const said: string[] = [];
  if (request.prompt_tokens !== null) {
    said.push(t.promptRead(count(request.processed ?? 0), count(request.prompt_tokens)));
  }
  if (request.cached_tokens) said.push(t.cached(count(request.cached_tokens)));
  if (request.state === "writing" && request.tokens !== null) {
    said.push(
      request.max_tokens === null
        ? t.written(count(request.tokens))
        : t.writtenOf(count(request.tokens), count(request.max_tokens)),
    );
  }
  return said.join(" · ");
}
