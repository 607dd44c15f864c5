/** What is served and how it is, the views, language and colours. */
import type { VNode } from "preact";
import { connection, state } from "../api/feed";
import { apiKey, forgetKey, isKeyWanted } from "../api/key";
import { percent } from "../format";
import { language, text, type Theme, theme } from "../preferences";
import { VIEWS, view } from "../route";
import { toldText } from "../text/told";
import { Icon } from "./Icon";

export function Header(): VNode {
  return (
    <header class="page-header">
      <a class="brand" href="#/cluster" aria-label="dure">
        <Mark />
        <span>dure</span>
      </a>
      <ServerStatus />
      <Views />
      <Choices />
    </header>
  );
}

/** Three who work together. */
function Mark(): VNode {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <path class="mark-links" d="M8 9h16M8 9l8 15M24 9l-8 15" />
      <circle cx="8" cy="9" r="6" />
      <circle cx="24" cy="9" r="6" />
      <circle cx="16" cy="24" r="6" />
    </svg>
  );
}

function ServerStatus(): VNode {
  const t = text.value.shell;
  const server = state.value?.server;
  if (isKeyWanted.value) return <p class="status" />;
  if (connection.value === "lost") {
    return (
      <p class="status" role="status">
        <span class="lamp bad" aria-hidden="true" />
        <span class="status-text">{t.lost}</span>
      </p>
    );
  }
  if (server === undefined) return <p class="status quiet">{t.connecting}</p>;
  const doing = server.doing === null ? t.phase[server.state] : toldText(server.doing);
  const progress = server.progress === null ? "" : ` ${percent(server.progress)}`;
  return (
    <p class="status" role="status">
      <span class={`lamp ${server.state === "ready" ? "good" : "warn"}`} aria-hidden="true" />
      <span class="status-text">
        <b>{server.model}</b> {server.state === "ready" ? t.phase.ready : `${doing}${progress}`}
      </span>
    </p>
  );
}

function Views(): VNode {
  const t = text.value.shell;
  return (
    <nav class="views" aria-label={t.views}>
      {VIEWS.map((name) => (
        <a key={name} href={`#/${name}`} aria-current={view.value === name ? "page" : undefined}>
          <Icon name={name} />
          <span>{t.view[name]}</span>
        </a>
      ))}
    </nav>
  );
}

const NEXT_THEME: Readonly<Record<Theme, Theme>> = { auto: "light", light: "dark", dark: "auto" };

function Choices(): VNode {
  const t = text.value;
  const other = language.value === "en" ? "ko" : "en";
  const sign = other === "ko" ? "한" : "EN";
  return (
    <div class="choices">
      <button
        type="button"
        class="plain"
        lang={other}
        aria-label={`${sign}: ${t.shell.switchLanguage}`}
        title={t.shell.switchLanguage}
        onClick={() => (language.value = other)}
      >
        {sign}
      </button>
      <button
        type="button"
        class="plain"
        aria-label={t.shell.theme[theme.value]}
        title={t.shell.theme[theme.value]}
        onClick={() => (theme.value = NEXT_THEME[theme.value])}
      >
        <Icon name={theme.value} />
      </button>
      {apiKey.value !== null && (
        <button
          type="button"
          class="plain"
          aria-label={t.key.forget}
          title={t.key.forget}
          onClick={forgetKey}
        >
          <Icon name="key" />
        </button>
      )}
      <a class="api" href="docs">
        {t.shell.api}
      </a>
    </div>
  );
}
