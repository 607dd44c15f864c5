/** Keeps an error of one view from taking the page with it. */
import { Component, type ComponentChildren } from "preact";
import { text } from "../preferences";
import { Reload } from "./Reload";

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
    const why = (
      <>
        {text.value.shell.unknownError} <code>{this.state.error.message}</code>
      </>
    );
    return <Reload why={why} />;
  }
}
