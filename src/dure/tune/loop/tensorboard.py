"""Event files of TensorBoard, by torch's own writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dure.tune.loop.events import Evaluated, Observer, StepLearned, TuneEvent

__all__ = ["event_files"]


@contextmanager
def event_files(folder: Path) -> Iterator[Observer]:
    """Write events into a folder. Yields what is told of them. The package tensorboard must be there."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def tell(event: TuneEvent) -> None:
            if isinstance(event, StepLearned):
                writer.add_scalar("loss/learned", event.loss, event.step)
                writer.add_scalar("learning rate", event.lr, event.step)
                writer.add_scalar("gradient norm", event.norm, event.step)
                writer.add_scalar("tokens per second", event.tokens / event.seconds, event.step)
            elif isinstance(event, Evaluated):
                writer.add_scalar("loss/held out", event.loss, event.step)

        yield tell
