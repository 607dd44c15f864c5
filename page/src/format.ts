/** Numbers and times as people read them, in the page's language. Pure but for that. */
import type { Known } from "./api/contract";
import { language, text } from "./preferences";

const MISSING = "–";

/** As `toLocaleString` writes it in both languages; but that loads its tables first, 60 ms on a slow machine. */
function number(value: number, digits: number): string {
  const [whole = "", part = ""] = value.toFixed(digits).split(".");
  const fraction = part.replace(/0+$/, "");
  return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (fraction === "" ? "" : `.${fraction}`);
}

/** Return about three digits: 1,234, 56.7, 8.9, 0.25, 0.012. */
export function figure(value: Known<number>): string {
  if (value === null || !Number.isFinite(value)) return MISSING;
  const size = Math.abs(value);
  if (size < 1)
    return number(value, size === 0 ? 0 : Math.min(20, 1 - Math.floor(Math.log10(size))));
  return number(value, size >= 100 ? 0 : 1);
}

export function count(value: Known<number>): string {
  return value === null ? MISSING : number(value, 0);
}

export function percent(fraction: Known<number>): string {
  if (fraction === null || !Number.isFinite(fraction)) return MISSING;
  if (fraction > 0 && fraction < 0.0005) return `< ${number(0.1, 1)}${text.value.units.percent}`;
  return `${number(fraction * 100, Math.abs(fraction) < 0.0995 && fraction !== 0 ? 1 : 0)}${text.value.units.percent}`;
}

function scaled(value: number, base: number, units: readonly string[]): string {
  let i = 0;
  let size = value;
  while (Math.abs(size) >= base && i < units.length - 1) {
    size /= base;
    i += 1;
  }
  return `${number(size, Math.abs(size) >= 100 || i === 0 ? 0 : 1)} ${units[i] ?? ""}`;
}

export function bytes(value: Known<number>): string {
  return value === null ? MISSING : scaled(value, 1000, ["B", "kB", "MB", "GB", "TB"]);
}

/** 3,672,576 as 3.7 M. */
export function large(value: Known<number>): string {
  return value === null ? MISSING : scaled(value, 1000, ["", "k", "M", "B", "T"]).trim();
}

/** A short time: 240 µs, 1.8 ms, 2.4 s. */
export function short(seconds: Known<number>): string {
  if (seconds === null || !Number.isFinite(seconds)) return MISSING;
  if (seconds === 0) return "0 ms";
  if (Math.abs(seconds) < 0.0009995) return `${figure(seconds * 1e6)} µs`;
  if (Math.abs(seconds) < 0.9995) return `${figure(seconds * 1e3)} ms`;
  return `${figure(seconds)} s`;
}

/** A long time: 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h. */
export function long(seconds: Known<number>): string {
  if (seconds === null || !Number.isFinite(seconds)) return MISSING;
  const unit = text.value.units;
  const s = Math.round(seconds);
  if (s < 60) return `${s}${unit.s}`;
  if (s < 3600) return pair(Math.floor(s / 60), unit.min, s % 60, unit.s);
  if (s < 86400) return pair(Math.floor(s / 3600), unit.h, Math.floor((s % 3600) / 60), unit.min);
  return pair(Math.floor(s / 86400), unit.d, Math.floor((s % 86400) / 3600), unit.h);
}

function pair(large: number, unit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large}${unit}` : `${large}${unit} ${small}${smallUnit}`;
}

/** Return what a machine is called: the server adds a rank's number where it has several. */
export function machine(name: string): string {
  const [, own, rank] = /^(.*), rank (\d+)$/.exec(name) ?? [];
  return own === undefined || rank === undefined ? name : text.value.cluster.ofMachine(own, rank);
}

export function clock(at: number, withSeconds = false): string {
  return new Date(at * 1000).toTimeString().slice(0, withSeconds ? 8 : 5);
}

/** Return the time of day, with the date if it was not today. */
export function moment(at: number): string {
  const date = new Date(at * 1000);
  if (date.toDateString() === new Date().toDateString()) return clock(at);
  return `${date.toLocaleDateString(language.value, { month: "short", day: "numeric" })} ${clock(at)}`;
}
