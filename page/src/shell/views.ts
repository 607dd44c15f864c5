/** The views: the cluster's comes with the page, each of the others with a file of its own. */
import { effect } from "@preact/signals";
import type { VNode } from "preact";
import { connection } from "../api/feed";
import { ClusterView } from "../cluster/ClusterView";
import { type View, VIEWS, view } from "../route";
import { Loaded, type Loading } from "./loaded";

type Component = () => VNode;
type Other = Exclude<View, "cluster">;

const FILES: Readonly<Record<Other, () => Promise<Component>>> = {
  now: async () => (await import("../now/NowView")).NowView,
  token: async () => (await import("../token/TokenView")).TokenView,
  chat: async () => {
    const { ChatView, followHistory } = await import("../chat/ChatView");
    followHistory();
    return ChatView;
  },
  models: async () => (await import("../models/ModelsView")).ModelsView,
  log: async () => (await import("../log/LogView")).LogView,
};
const OTHERS = VIEWS.filter((name): name is Other => name !== "cluster");
const PAUSE_MS = 1000; // the first view comes first

const files = new Loaded((name: Other) => FILES[name]());

/** Return what draws a view, or how far its file is. */
export function componentOf(name: View): Component | Loading {
  if (name === "cluster") return ClusterView;
  const found = files.get(name);
  return typeof found === "string" ? found : found.part;
}

/** Load the view that is chosen, and then the others one by one, while the server is there to give them. */
export function followViews(): void {
  effect(() => {
    if (view.value !== "cluster" && connection.value !== "lost") void files.load(view.value);
  });
  let next = 0;
  effect(() => {
    if (connection.value !== "live") return undefined;
    const timer = setInterval(() => {
      const name = OTHERS[next++];
      if (name === undefined) clearInterval(timer);
      else void files.load(name);
    }, PAUSE_MS);
    return () => clearInterval(timer);
  });
}
