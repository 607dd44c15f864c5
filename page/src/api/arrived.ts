/**
 * What has come from the server, made complete: a figure that it left out, and an empty text, are null, "not known",
 * as the contract has it. Knows which may be missing; nothing of what is shown.
 */
import type {
  ClusterNode,
  History,
  Link,
  LogEntry,
  ModelList,
  NodeHistory,
  QualityCard,
  ServerState,
  State,
  TokenTrace,
  Work,
} from "./contract";

// prettier-ignore
const SERVER = [
  "doing", "progress", "reason", "architecture", "file_type", "n_params", "weights_bytes", "n_ctx", "n_sequences",
  "n_ranks", "threads", "transport", "up_s",
] as const satisfies readonly (keyof ServerState)[];

// prettier-ignore
const NODE = [
  "machine", "problem", "share", "cpu", "weights_bytes", "kv_bytes", "peak_bytes", "memory_bytes", "available_bytes",
  "temperature_c", "throttled", "throttled_since", "wait_s_per_token", "watts", "watts_of", "watts_problem", "clock_mhz", "load",
  "disk_free_bytes", "findings",
] as const satisfies readonly (keyof ClusterNode)[];

const LINK = [
  "mbit_per_s",
  "round_trip_us",
  "wait_s_per_token",
  "waits",
  "wire_s_per_token",
  "errors",
] as const satisfies readonly (keyof Link)[];

const SAID = ["cure", "code", "facts"] as const;
const WORK = [
  "phase",
  "done",
  "total",
  "fraction",
  "per_s",
  "rest_s",
  "note",
  "losses",
  "error",
  "cure",
] as const satisfies readonly (keyof Work)[];
const NODE_HISTORY = ["temperature_c", "throttled", "watts"] as const;

export function arrivedState(sent: State): State {
  return {
    ...complete(sent, ["wire_s_per_token"]),
    server: complete(sent.server, SERVER),
    stats: complete(sent.stats, ["joules_per_token"]),
    nodes: sent.nodes.map((node) => {
      const { findings, ...rest } = complete(node, NODE);
      return { ...rest, findings: (findings ?? []).map((each) => complete(each, SAID)) };
    }),
    links: sent.links.map((link) => complete(link, LINK)),
    work: sent.work.map((each) => complete(each, WORK)),
  };
}

export function arrivedLog(sent: readonly LogEntry[]): readonly LogEntry[] {
  return sent.map((entry) => complete(entry, SAID));
}

export function arrivedHistory(sent: History): History {
  const points = sent.points.map((point) => ({
    ...complete(point, ["joules_per_token"]),
    nodes: Object.fromEntries(
      Object.entries(point.nodes).map(([name, node]): [string, NodeHistory] => [
        name,
        complete(node, NODE_HISTORY),
      ]),
    ),
  }));
  return { ...sent, points };
}

export function arrivedTrace(sent: TokenTrace): TokenTrace {
  return complete(sent, [
    "n_layers",
    "sums",
    "bytes_sent",
    "weights_bytes",
    "n_experts",
    "experts",
  ]);
}

export function arrivedModels(sent: ModelList): ModelList {
  return {
    models: sent.models.map((model) => ({
      ...model,
      card: cardOf(model.card as Evaluation | null),
      tuning: model.tuning ?? null,
    })),
  };
}

/** The part of what `dure eval` writes that a card shows. */
interface Evaluation {
  readonly model?: { readonly bits_per_weight?: number };
  readonly divergence?: {
    readonly mean: { readonly value: number };
    readonly agreement: { readonly value: number };
  } | null;
}

function cardOf(sent: Evaluation | null): QualityCard | null {
  if (sent === null || sent === undefined) return null;
  return {
    bits_per_weight: sent.model?.bits_per_weight ?? null,
    kl: sent.divergence?.mean.value ?? null,
    same_top_token: sent.divergence?.agreement.value ?? null,
  };
}

/** Return an object with null for those of its fields that are missing or an empty text. */
function complete<T extends object, K extends keyof T>(sent: T, names: readonly K[]): T {
  const missing = names.filter((name) => sent[name] === undefined || sent[name] === "");
  return { ...sent, ...Object.fromEntries(missing.map((name) => [name, null])) };
}
