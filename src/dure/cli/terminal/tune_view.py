"""Shows how tuning goes on: on a terminal a bar and the loss as a line, elsewhere a line now and then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from dure.cli.terminal.braille import braille_line
from dure.cli.terminal.console import duration_text, errors, print_json, print_warning, printable

if TYPE_CHECKING:
    from dure.tune.loop.events import Observer, StepLearned, TuneEvent

__all__ = ["as_json_lines", "shown"]

LINES = 20  # on which a run is told elsewhere than on a terminal
RECENT = 20  # steps from which speed and time left are told
WIDTH, HEIGHT = 60, 5


def as_json_lines(event: TuneEvent) -> None:
    """Print an event as a line of JSON."""
    from dure.tune.loop.events import event_data

    print_json(event_data(event), in_a_line=True)


@contextmanager
def shown() -> Iterator[Observer]:
    """Show a run on stderr. Yields what is told of events."""
    view = _View()
    with view.live if errors.is_terminal else _nothing():
        yield view.tell


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class _View:
    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("tuning"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", markup=False),
            console=errors,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("tuning", total=None, told="")
        self._losses: list[float] = []
        self._recent: list[StepLearned] = []
        self.live = Live(
            get_renderable=self._picture, console=errors, transient=True, refresh_per_second=4
        )

    def tell(self, event: TuneEvent) -> None:
        """Show an event."""
        from dure.tune.loop import events

        match event:
            case events.DataRead():
                errors.print(event.text, markup=False)
            case events.ModelReady():
                shared = f" in {event.processes} processes" if event.processes > 1 else ""
                errors.print(
                    f"{_millions(event.learned)} of {_millions(event.weights)} weights learn, in "
                    f"{event.arithmetic} on {event.device}{shared}: {event.steps:,} steps, rows of "
                    f"{event.ctx:,} tokens",
                    markup=False,
                )
            case events.Resumed():
                errors.print(f"goes on after step {event.step:,} of {event.steps:,}")
            case events.StepLearned():
                self._step(event)
            case events.Evaluated():
                best = ", the best so far" if event.is_best else ""
                self._say(f"step {event.step:,}: held-out loss {event.loss:.4f}{best}")
            case events.Notice():
                print_warning(printable(event.text))
            case events.Saved() | events.RunEnded():
                pass

    def _step(self, event: StepLearned) -> None:
        self._losses.append(event.loss)
        self._recent = [*self._recent[-RECENT + 1 :], event]
        told = self._told(event)
        self._bar.update(self._task, completed=event.step, total=event.steps, told=told)
        if not errors.is_terminal and self._is_time(event):
            errors.print(f"step {event.step:,} of {event.steps:,}: {told}", markup=False)

    def _is_time(self, event: StepLearned) -> bool:
        every = max(1, event.steps // LINES)
        return event.step % every == 0 or event.step == event.steps

    def _told(self, event: StepLearned) -> str:
        seconds = sum(one.seconds for one in self._recent)
        tokens = sum(one.tokens for one in self._recent)
        mean = sum(self._losses[-RECENT:]) / len(self._losses[-RECENT:])
        left = (event.steps - event.step) * seconds / len(self._recent)
        return (
            f"loss {mean:.4f}, {tokens / max(seconds, 1e-9):,.0f} tokens/s, "
            f"{duration_text(left)} left"
        )

    def _say(self, text: str) -> None:
        errors.print(text, markup=False)

    def _picture(self) -> Group:
        if len(self._losses) < 2:
            return Group(self._bar)
        lines = braille_line(self._losses, min(WIDTH, max(10, errors.width - 12)), HEIGHT)
        high, low = max(self._losses), min(self._losses)
        labels = [f"{high:8.3f}", *[""] * (HEIGHT - 2), f"{low:8.3f}"]
        rows = [f"{a:>8} {b}" for a, b in zip(labels, lines, strict=True)]
        return Group(Text("\n".join(rows), style="cyan"), self._bar)


def _millions(n: int) -> str:
    if n >= 10**9:
        return f"{n / 1e9:.2f} billion"
    return f"{n / 1e6:.2f} million" if n >= 10**6 else f"{n:,}"
