/**
 * What the server tells the page. Times are seconds, `at` since 1970; units are in the names.
 * null: not known. What is missing as it comes is made null by `arrived`.
 */

import type { Said } from "../text/translator";

export type Known<T> = T | null;

export type ServerPhase = "loading" | "ready" | "restarting" | "failed" | "stopped";

export interface ServerState {
  readonly model: string;
  readonly version: string;
  readonly state: ServerPhase;
  /** What is done while it is not ready, in words. */
  readonly doing: Known<string>;
  /** 0 to 1. */
  readonly progress: Known<number>;
  /** Why it failed. */
  readonly reason: Known<string>;
  readonly architecture: Known<string>;
  readonly file_type: Known<string>;
  readonly n_params: Known<number>;
  readonly weights_bytes: Known<number>;
  readonly n_ctx: Known<number>;
  readonly n_sequences: Known<number>;
  readonly n_ranks: Known<number>;
  readonly threads: Known<readonly number[]>;
  readonly transport: Known<string>;
  readonly up_s: Known<number>;
}

export interface Stats {
  readonly running: Known<number>;
  readonly waiting: Known<number>;
  readonly kv_used: Known<number>;
  readonly kv_kept: Known<number>;
  readonly kv_total: Known<number>;
  readonly prompt_per_s: Known<number>;
  readonly generated_per_s: Known<number>;
  /** Of the last minute, prompts and pauses included; all machines must report watts. */
  readonly joules_per_token: Known<number>;
  readonly prompt_tokens: Known<number>;
  readonly generated_tokens: Known<number>;
  readonly cache_hits: Known<number>;
  readonly cache_queries: Known<number>;
  readonly drafted: Known<number>;
  readonly accepted: Known<number>;
}

export type RequestPhase = "waiting" | "reading" | "writing";

export interface RunningRequest {
  readonly id: string;
  readonly key: Known<string>;
  readonly state: RequestPhase;
  readonly prompt_tokens: Known<number>;
  readonly cached_tokens: Known<number>;
  /** Tokens of the prompt that are read already. */
  readonly processed: Known<number>;
  readonly tokens: Known<number>;
  readonly max_tokens: Known<number>;
  readonly tokens_per_s: Known<number>;
  readonly age_s: Known<number>;
  readonly target: Known<string>;
  readonly reason: Known<string>;
}

export interface KeyQueue {
  readonly name: string;
  readonly running: Known<number>;
  readonly waiting: Known<number>;
  readonly weight: Known<number>;
  readonly priority: Known<number>;
}

export type Finding = Said;

/** A whole machine, its board without what hangs on it, or its processor alone. */
export type PowerOf = "machine" | "board" | "processor";

export interface ClusterNode {
  /** With its rank where a machine has several. */
  readonly name: string;
  /** It stays the same while ranks come and go. */
  readonly machine: Known<string>;
  readonly is_root: boolean;
  readonly is_up: boolean;
  readonly problem: Known<string>;
  readonly ranks: readonly number[];
  /** Of the model, 0 to 1. */
  readonly share: Known<number>;
  readonly cpu: Known<string>;
  readonly weights_bytes: Known<number>;
  readonly kv_bytes: Known<number>;
  readonly peak_bytes: Known<number>;
  readonly memory_bytes: Known<number>;
  readonly available_bytes: Known<number>;
  readonly temperature_c: Known<number>;
  readonly throttled: Known<boolean>;
  readonly throttled_since: Known<number>;
  /** For the last rank to come to each sum. */
  readonly wait_s_per_token: Known<number>;
  readonly watts: Known<number>;
  /** What draws them. */
  readonly watts_of: Known<PowerOf>;
  /** Why a sensor that is there cannot be read. */
  readonly watts_problem: Known<string>;
  readonly clock_mhz: Known<number>;
  readonly load: Known<number>;
  readonly disk_free_bytes: Known<number>;
  readonly findings: Known<readonly Finding[]>;
}

export interface Link {
  readonly between: readonly [string, string];
  readonly ranks: readonly [number, number];
  readonly mbit_per_s: Known<number>;
  readonly round_trip_us: Known<number>;
  /** How much earlier than the other one of them is ready. Such waits overlap if there are more ranks. */
  readonly wait_s_per_token: Known<number>;
  /** Which of the two waits for the other: its rank. */
  readonly waits: Known<number>;
  /** Of this link alone: not known if there are more than two ranks. */
  readonly wire_s_per_token: Known<number>;
  readonly errors: Known<number>;
}

export interface State {
  readonly server: ServerState;
  readonly stats: Stats;
  readonly requests: readonly RunningRequest[];
  readonly keys: readonly KeyQueue[];
  readonly nodes: readonly ClusterNode[];
  /** Between any two ranks that exchange with each other. */
  readonly links: readonly Link[];
  /** On all links together: they are used at once. */
  readonly wire_s_per_token: Known<number>;
  /** On models, by whatever process of this machine; the newest first. */
  readonly work: readonly Work[];
}

/** Of one rank in one step: compute_s, sync_s, idle_s, bytes_sent. */
export type RankStep = readonly [number, number, number, number];

export interface Step {
  /** When it ended. */
  readonly at: number;
  readonly n_tokens: number;
  /** How many of its tokens belong to prompts. */
  readonly n_prompt: number;
  readonly ranks: readonly RankStep[];
}

export type LogKind = "cluster" | "engine" | "route" | "model";
export type LogLevel = "info" | "warning" | "error";

export interface LogEntry extends Said {
  /** Counted since the server's start. */
  readonly n: number;
  readonly at: number;
  readonly kind: LogKind;
  readonly level: LogLevel;
}

export interface NodeHistory {
  readonly temperature_c: Known<number>;
  readonly throttled: Known<boolean>;
  readonly watts: Known<number>;
}

export interface HistoryPoint {
  readonly at: number;
  readonly prompt_per_s: Known<number>;
  readonly generated_per_s: Known<number>;
  /** Of all machines, for each generated token; prompts and pauses are included. */
  readonly joules_per_token: Known<number>;
  readonly running: Known<number>;
  readonly waiting: Known<number>;
  readonly nodes: Readonly<Record<string, NodeHistory>>;
}

export interface History {
  readonly every_s: number;
  readonly points: readonly HistoryPoint[];
}

export interface QualityCard {
  readonly bits_per_weight: Known<number>;
  readonly kl: Known<number>;
  /** How often the same token is the likeliest, 0 to 1. */
  readonly same_top_token: Known<number>;
}

/** What `dure tune` made a model of. */
export interface TuningCard {
  readonly base: string;
  readonly method: string;
  readonly examples: number;
  readonly data: readonly { readonly name: string }[];
  readonly steps: number;
  readonly loss: Known<number>;
  readonly eval_loss: Known<number>;
}

export interface ModelOnDisk {
  readonly name: string;
  readonly path: string;
  readonly size_bytes: Known<number>;
  readonly architecture: Known<string>;
  readonly file_type: Known<string>;
  readonly n_params: Known<number>;
  readonly n_ctx_train: Known<number>;
  readonly is_served: boolean;
  /** A pull was interrupted; the next one goes on from there. */
  readonly is_unfinished: boolean;
  readonly card: Known<QualityCard>;
  readonly tuning: Known<TuningCard>;
}

export type WorkState = "running" | "done" | "failed" | "stopped";
export type WorkKind =
  | "pull"
  | "import"
  | "quantize"
  | "cut"
  | "load"
  | "eval"
  | "imatrix"
  | "tune"
  | "bench"
  | "doctor";

/** What is done within work that has several parts. */
export type WorkPhase =
  | "cutting"
  | "loading"
  | "preparing"
  | "text"
  | "reading"
  | "errors"
  | "swapping"
  | "choosing"
  | "writing"
  | "judging"
  | "timing"
  | "gathering"
  | "learning"
  | "checking";

/** Steps of a tuning and their losses, of which each point is the mean of some. */
export interface LossCurve {
  readonly learned: readonly (readonly [number, number])[];
  readonly held_out: readonly (readonly [number, number])[];
}

export interface Work {
  readonly id: string;
  readonly kind: WorkKind;
  readonly name: string;
  readonly phase: Known<WorkPhase>;
  /** part: `done` counts from 0 to 1. */
  readonly unit: "bytes" | "tokens" | "steps" | "part";
  /** Of the phase, as all that follows. */
  readonly done: Known<number>;
  readonly total: Known<number>;
  readonly fraction: Known<number>;
  readonly per_s: Known<number>;
  readonly rest_s: Known<number>;
  readonly state: WorkState;
  /** What a person should know of it, as why nothing comes. */
  readonly note: Known<string>;
  /** Of a tuning. */
  readonly losses: Known<LossCurve>;
  readonly error: Known<string>;
  readonly cure: Known<string>;
  readonly can_stop: boolean;
}

export interface ModelList {
  readonly models: readonly ModelOnDisk[];
}

/** What a rank does at a time of a token. */
export type TokenPart =
  "attention" | "feed_forward" | "head" | "encode" | "wait" | "wire" | "between";

/** Part, when it began and ended (seconds), and its layer. */
export type TokenInterval = readonly [TokenPart, number, number, number | null];

export interface TokenTrace {
  readonly token_s: number;
  readonly n_layers: Known<number>;
  readonly n_ranks: number;
  /** Reductions of the token. */
  readonly sums: Known<number>;
  readonly bytes_sent: Known<number>;
  /** What each rank holds. */
  readonly weights_bytes: Known<readonly number[]>;
  /** That a layer has; null: the model is no mixture of experts. */
  readonly n_experts: Known<number>;
  /** Of each rank, for each layer, those that the token had; of several answers, the first one's. */
  readonly experts: Known<readonly (readonly (readonly number[])[])[]>;
  readonly ranks: readonly {
    readonly node: string;
    readonly intervals: readonly TokenInterval[];
  }[];
  readonly parts: readonly Partial<Record<TokenPart, number>>[];
}
