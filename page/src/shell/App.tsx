/** The page: header, the chosen view, and the form for a key when one is wanted. */
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { isKeyWanted } from "../api/key";
import { text } from "../preferences";
import { view } from "../route";
import { Boundary } from "./Boundary";
import { Header } from "./Header";
import { KeyForm } from "./KeyForm";
import { Reload } from "./Reload";
import { isOutdated } from "./version";
import { componentOf } from "./views";

export function App(): VNode {
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
      {isOutdated.value && <Reload why={t.outdated} />}
      <main id="main" class={`view-${view.value}`} tabIndex={-1} ref={main}>
        {isKeyWanted.value ? (
          <KeyForm />
        ) : (
          <Boundary key={view.value}>
            <Chosen />
          </Boundary>
        )}
      </main>
    </>
  );
}

/** The chosen view, as soon as its file is here. */
function Chosen(): VNode {
  const t = text.value.shell;
  const Found = componentOf(view.value);
  if (Found === "loading") return <p class="quiet">{t.loadingView}</p>;
  if (Found === "failed") return <Reload why={t.notLoaded} />;
  return <Found />;
}
