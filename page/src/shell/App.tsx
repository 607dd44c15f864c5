/** The page: header, the chosen view, and the form for a key when one is wanted. */
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { isKeyWanted } from "../api/key";
import { ChatView } from "../chat/ChatView";
import { ClusterView } from "../cluster/ClusterView";
import { LogView } from "../log/LogView";
import { ModelsView } from "../models/ModelsView";
import { NowView } from "../now/NowView";
import { text } from "../preferences";
import { type View, view } from "../route";
import { TokenView } from "../token/TokenView";
import { Boundary } from "./Boundary";
import { Header } from "./Header";
import { KeyForm } from "./KeyForm";

const SHOWN: Readonly<Record<View, () => VNode>> = {
  cluster: ClusterView,
  now: NowView,
  token: TokenView,
  chat: ChatView,
  models: ModelsView,
  log: LogView,
};

export function App(): VNode {
  const Shown = SHOWN[view.value];
  const main = useRef<HTMLElement>(null);
  const t = text.value.shell;
  useEffect(() => {
    document.title = `${t.view[view.value]} · dure`;
  }, [view.value, t]);
  const skip = (event: Event): void => {
    event.preventDefault(); // the address holds the view
    main.current?.focus();
  };
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        {t.skip}
      </a>
      <Header />
      <main id="main" class={`view-${view.value}`} tabIndex={-1} ref={main}>
        {isKeyWanted.value ? (
          <KeyForm />
        ) : (
          <Boundary key={view.value}>
            <Shown />
          </Boundary>
        )}
      </main>
    </>
  );
}
