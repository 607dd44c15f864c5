/** Asks the server, with the key, and turns refusals into errors. Knows HTTP; nothing of what is shown. */
import { apiKey, isKeyWanted } from "./key";

/** The server refused. status 0: it could not be reached. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly cure: string | null = null,
  ) {
    super(message);
  }
}

const UNREACHED = "the server cannot be reached";

/** Return the answer to a request to `path`, relative to the page; raises ApiError. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (apiKey.value !== null) headers.set("Authorization", `Bearer ${apiKey.value}`);
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted === true) throw error;
    throw new ApiError(0, UNREACHED); // a browser says why in its own words and language
  }
  if (answer.status === 401) isKeyWanted.value = true;
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  return jsonOf<T>(await ask(path, signal === undefined ? {} : { signal }));
}

export async function postJson<T>(path: string, body: unknown): Promise<T> {
  return jsonOf<T>(await post(path, body));
}

/** Return what an answer says; raises ApiError if it breaks off, or is no JSON, as a proxy's page. */
async function jsonOf<T>(answer: Response): Promise<T> {
  try {
    return (await answer.json()) as T;
  } catch (error) {
    throw new ApiError(0, error instanceof Error ? error.message : String(error));
  }
}

export function post(path: string, body: unknown = {}, signal?: AbortSignal): Promise<Response> {
  return ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

async function refusal(answer: Response): Promise<ApiError> {
  const text = await answer.text();
  const said = errorOf(parsed(text));
  return new ApiError(
    answer.status,
    said?.message ?? `the server answered ${answer.status} ${answer.statusText}`.trim(),
    said?.cure,
  );
}

/** Return what an answer, or an event of a stream, says in `error`. */
export function errorOf(body: unknown): { message: string; cure: string | null } | null {
  if (typeof body !== "object" || body === null || !("error" in body)) return null;
  const { error } = body;
  if (typeof error === "string") return { message: error, cure: null };
  if (typeof error !== "object" || error === null || !("message" in error)) return null;
  const cure = "cure" in error && typeof error.cure === "string" ? error.cure : null;
  return { message: String(error.message), cure };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
