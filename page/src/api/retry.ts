/** Does something again and again, after longer and longer pauses while it fails. Knows no network. */

const FIRST_PAUSE_S = 0.5;
const LONGEST_PAUSE_S = 8;

/** How an attempt ended: "well" if it had worked for a while. */
export type Ended = "well" | "badly";

/** Try until `stopped`. ended: hears of each end. sleep: waits so many seconds. */
export async function keepTrying(
  attempt: () => Promise<Ended>,
  ended: (error: unknown) => void,
  stopped: AbortSignal,
  sleep: (seconds: number) => Promise<void>,
): Promise<void> {
  let pause_s = FIRST_PAUSE_S;
  while (!stopped.aborted) {
    let error: unknown = null;
    try {
      if ((await attempt()) === "well") pause_s = FIRST_PAUSE_S;
    } catch (caught) {
      error = caught; // whatever it is: what was not understood once may be understood next time
    }
    if (stopped.aborted) return;
    ended(error);
    await sleep(pause_s);
    pause_s = Math.min(pause_s * 2, LONGEST_PAUSE_S);
  }
}
