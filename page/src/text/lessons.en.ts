/** What the anatomy of a token teaches, in English. */
import type { TokenPart } from "../api/contract";

export interface PartText {
  readonly name: string;
  readonly text: string;
}

export const parts: Record<TokenPart, PartText> = {
  attention: {
    name: "attention",
    text: "The token looks back at all tokens before it. Each rank computes some of the heads and keeps the keys and values of those heads only.",
  },
  feed_forward: {
    name: "feed-forward",
    text: "The largest products of a layer: most weights lie here, and reading them from memory takes the time, not the multiplying.",
  },
  head: {
    name: "output head",
    text: "The last vector is compared with every word of the vocabulary. Each rank does a slice of it and reports its likeliest tokens.",
  },
  encode: {
    name: "encode",
    text: "The partial vector is packed for the wire, in blocks of 8-bit numbers as a rule; those that arrive are unpacked and added.",
  },
  wait: {
    name: "wait",
    text: "This rank has finished and waits for a slower one. The rank that hardly waits is the one to look at.",
  },
  wire: {
    name: "wire",
    text: "Everybody is ready, and the bytes travel: system calls, the kernel's network stack, the cable, and the same upwards at the other end.",
  },
  between: {
    name: "between",
    text: "What lies between two steps: the next token is chosen, and the next step is prepared and announced to all ranks.",
  },
};

/** Figures of this token, already written out; null where they are not known. */
export interface LessonFigures {
  readonly weights: string | null;
  readonly computing: string | null;
  readonly bandwidth: string | null;
  readonly sums: string | null;
  readonly sent: string | null;
  readonly perSum: string | null;
  readonly wait: string | null;
  readonly waitsMost: string | null;
  readonly waitsLeast: string | null;
}

export interface Lesson {
  readonly title: string;
  readonly paragraphs: readonly string[];
  /** What this token shows of it; null if that is not known. */
  readonly here: (figures: LessonFigures) => string | null;
}

export const lessons: readonly Lesson[] = [
  {
    title: "A token reads the whole model",
    paragraphs: [
      "To write one token, a machine multiplies a vector by every weight of its share, layer after layer. Each weight is used once and then not again until the next token.",
      "The processor's caches hold some megabytes, and the weights have hundreds or thousands. So nothing is left in the cache from the last token: all of it comes from memory again.",
    ],
    here: ({ weights, computing }) =>
      weights &&
      computing &&
      `Here: ${weights} of weights on the busiest machine, read within ${computing}.`,
  },
  {
    title: "Memory bandwidth decides",
    paragraphs: [
      "A weight of four bits costs half a byte of reading and two operations of arithmetic. A modern core could do far more in the time that the half byte takes to arrive: it mostly waits for memory.",
      "So tokens per second are, roughly, memory bandwidth divided by the bytes of the weights. That is why fewer bits make a model faster, why a second machine helps (it brings its own memory), and why a quicker processor often does not.",
    ],
    here: ({ bandwidth }) =>
      bandwidth && `Here: the busiest machine read ${bandwidth} while it computed.`,
  },
  {
    title: "Why the machines must meet",
    paragraphs: [
      "dure cuts inside the layers: each rank has some of the attention heads and some of the feed-forward's columns. What a rank computes is therefore a partial vector, and only the sum over all ranks is the layer's result.",
      "Twice in every layer the ranks exchange these vectors and add them, an all-reduce. The next layer cannot begin before, so the network's delay counts many times for each token.",
    ],
    here: ({ sums, sent, perSum }) =>
      sums &&
      sent &&
      `Here: ${sums} sums for this token, and ${sent} sent${perSum ? `, ${perSum} a sum` : ""}.`,
  },
  {
    title: "A wait is about somebody else",
    paragraphs: [
      "A sum is ready when the slowest rank has come. Every quicker rank spends the difference waiting. Its own speed, and the network, have no part in that.",
      "So read the colours backwards: the rank that waits least is the slow one. It may be throttled, have too large a share of the model, or another program may use its processor.",
    ],
    here: ({ wait, waitsMost, waitsLeast }) =>
      wait &&
      waitsMost &&
      waitsLeast &&
      `Here: ${waitsMost} waits most, ${wait} of the token. ${waitsLeast} waits least.`,
  },
  {
    title: "What the kernel does",
    paragraphs: [
      "A program cannot touch the network card. It makes a system call: the processor enters the kernel, which copies the bytes, puts TCP's headers before them and hands them to the card. On the other side an interrupt ends in waking the thread that waits.",
      "Each of these steps takes microseconds, however few bytes there are. A vector of a few kilobytes needs less time on the cable than in the two kernels. That is why the round trip matters more to a token than the megabits.",
      "The kernel also decides who may run. If another program gets the processor for two milliseconds, this rank comes two milliseconds late, and all others wait with it.",
    ],
    here: () => null,
  },
  {
    title: "Why this part is C",
    paragraphs: [
      "Between two sums lie a few hundred microseconds. An interpreter would spend a good part of them on itself, and may stop at any moment to clean up its memory.",
      "So everything inside a layer is C: products over packed weights with vector instructions, which handle 8, 16 or 32 numbers at once, and the all-reduce, which allocates no memory while a token is computed.",
      "Python decides what to compute, once for each step. A few hundred microseconds a token are enough for that, and it is easier to read and to change.",
    ],
    here: () => null,
  },
];
