import { useEffect, useState } from "preact/hooks";
import { ApiError, getJson } from "../api/client";
import { isSeen } from "./seen";

export interface Polled<T> {
  readonly value: T | null;
  readonly problem: ApiError | null;
  /** Ask at once. */
  readonly again: () => void;
}

/**
 * Ask for `path` now, and again after as many seconds as its answer makes it worth, while somebody may be looking.
 * arrived: makes it complete.
 */
export function usePolled<T>(
  path: string,
  arrived: (sent: T) => T,
  pause_s: (value: T | null) => number,
): Polled<T> {
  const [value, setValue] = useState<T | null>(null);
  const [problem, setProblem] = useState<ApiError | null>(null);
  const [round, setRound] = useState(0);
  const isLookedAt = isSeen.value;
  useEffect(() => {
    if (!isLookedAt) return undefined;
    const stopper = new AbortController();
    let timer = 0;
    const ask = async (): Promise<void> => {
      let found: T | null = null;
      try {
        found = arrived(await getJson<T>(path, stopper.signal));
        setValue(found);
        setProblem(null);
      } catch (error) {
        if (stopper.signal.aborted) return;
        if (!(error instanceof ApiError)) console.error(error); // a bug: what came was not understood
        setProblem(error instanceof ApiError ? error : new ApiError(0, String(error)));
      }
      if (stopper.signal.aborted) return;
      timer = window.setTimeout(() => void ask(), pause_s(found) * 1000);
    };
    void ask();
    return () => {
      stopper.abort();
      clearTimeout(timer);
    };
  }, [path, round, isLookedAt]);
  return { value, problem, again: () => setRound((n) => n + 1) };
}
