/** Keeps an error of one view from taking the page with it. */
import { Component, type ComponentChildren } from "preact";
import { text } from "../preferences";

interface Failure {
  readonly error: Error | null;
}

export class Boundary extends Component<{ readonly children: ComponentChildren }, Failure> {
  override state: Failure = { error: null };

  static override getDerivedStateFromError(error: Error): Failure {
    return { error };
  }

  override componentDidCatch(error: Error): void {
    console.error(error);
  }

  override render(): ComponentChildren {
    if (this.state.error === null) return this.props.children;
    const t = text.value.shell;
    return (
      <div class="card" role="alert">
        <p>
          {t.unknownError} <code>{this.state.error.message}</code>
        </p>
        <button type="button" onClick={() => location.reload()}>
          {t.reload}
        </button>
      </div>
    );
  }
}
