import { useEffect, useState } from "preact/hooks";
import { ApiError, getJson } from "../api/client";

export interface Polled<T> {
  readonly value: T | null;
  readonly problem: ApiError | null;
  /** Ask at once. */
  readonly again: () => void;
}

/** Ask for `path` now, and again after as many seconds as its answer makes it worth. arrived: makes it complete. */
export function usePolled<T>(
  path: string,
  arrived: (sent: T) => T,
  pause_s: (value: T | null) => number,
): Polled<T> {
  const [value, setValue] = useState<T | null>(null);
  const [problem, setProblem] = useState<ApiError | null>(null);
  const [round, setRound] = useState(0);
  useEffect(() => {
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
        if (!(error instanceof ApiError)) throw error;
        setProblem(error);
      }
      timer = window.setTimeout(() => void ask(), pause_s(found) * 1000);
    };
    void ask();
    return () => {
      stopper.abort();
      clearTimeout(timer);
    };
  }, [path, round]);
  return { value, problem, again: () => setRound((n) => n + 1) };
}
