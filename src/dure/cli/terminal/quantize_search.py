"""What `dure quantize` does before it chooses: it says how long that takes, and measures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from dure.cli.terminal.console import duration_text, errors, loading_bar
from dure.cli.terminal.judging import judge_on
from dure.cli.terminal.out_file import check_room
from dure.cli.terminal.running_model import TerminalReporter
from dure.convert.quantize.group_weights import GroupWeights, measure_weights
from dure.convert.quantize.search import Search
from dure.deploy.quantize_estimate import (
    QuantizeEstimate,
    TextWork,
    check_original_fits,
    check_swap_room,
    estimated,
)
from dure.evaluate.judged_text import OWN_WINDOWS, JudgedOn
from dure.evaluate.own_text import AT_ONCE
from dure.evaluate.swaps import SwapJudge
from dure.model.ggml import GgmlType
from dure.sizes import bytes_text

__all__ = ["Preparation"]


class Preparation:
    """A search, and the text that its results are judged on; None: they are not.

    time_s: for measuring. measures: errors count, as they do unless a mixture was named.
    """

    def __init__(
        self, search: Search, text: JudgedOn | None, time_s: float, *, measures: bool
    ) -> None:
        self._search, self._text, self._time_s, self._measures = search, text, time_s, measures
        self._judge = judge_on(text) if text and text.is_there else None

    def check(
        self, types: Mapping[str, GgmlType] | None, path: Path | None, *, knows_size: bool
    ) -> None:
        """Tell how long the command will take, and check that disk and memory suffice.

        types: that the tensors will have, about; path: of the file; None: none is written. knows_size: the
        file will not be smaller. Raises ResourceError.
        """
        search = self._search
        if self._text:
            at_once = 1 if self._judge else AT_ONCE
            check_original_fits(search.model, self._text.n_ctx, at_once)
        estimate = estimated(
            search,
            types if path else None,
            self._text_work(self._text) if self._text else None,
            self._time_s,
            TerminalReporter(),
            measures=self._measures,
        )
        _tell(estimate, search, path)
        check_swap_room(search.directory, estimate.swap_bytes)
        if path and knows_size:
            check_room(path, estimate.file_bytes)

    def judge(self) -> SwapJudge | None:
        """Return the judge; have the model write the text if it has not yet."""
        if self._judge is None and self._text:
            self._judge = judge_on(self._text)
        return self._judge

    def weights(self) -> Mapping[str, float]:
        """Measure errors, and with a judge what an error in each group does; return the groups' weights."""
        ends = time.monotonic() + self._time_s
        judge, search = self.judge(), self._search
        name = search.model.paths[0].name
        with loading_bar(f"measuring {name}", "errors") as progress:
            left_s = ends - time.monotonic()
            search.measure(left_s / 2 if judge else left_s, progress)
        if judge is None:
            return {}
        with loading_bar(f"{name} reads the text", "reading") as progress:
            judge.read_original(progress)
        with (
            loading_bar("swapping groups of tensors", "swapping") as progress,
            search.scratch() as directory,
        ):
            return measure_weights(
                search,
                lambda path, so_far: judge.divergence(path, so_far).mean.value,
                GroupWeights.on(search, judge.text),
                directory=directory,
                time_s=ends - time.monotonic(),
                progress=progress,
            )

    def _text_work(self, text: JudgedOn) -> TextWork:
        if self._judge is None:
            n_tokens = (text.most or OWN_WINDOWS) * text.n_ctx
            return TextWork(n_tokens, n_tokens, n_tokens, AT_ONCE, None)
        known = GroupWeights.on(self._search, self._judge.text)
        n_tokens = self._judge.n_tokens
        n_to_read = 0 if self._judge.has_read_original else n_tokens
        return TextWork(n_tokens, 0, n_to_read, AT_ONCE, known)


def _tell(estimate: QuantizeEstimate, search: Search, path: Path | None) -> None:
    """Tell how long each phase takes, and what lies on disk."""
    n, n_all = estimate.n_judged, estimate.n_swaps
    groups = f"{n}" if n == n_all else f"{n} of {n_all}"
    phases = {
        "the text": estimate.text_s,
        f"errors of {estimate.n_tensors} tensors": estimate.errors_s,
        f"{groups} groups swapped one at a time": estimate.swaps_s,
        "the file": estimate.write_s,
    }
    parts = [f"{what} {_time(took_s)}" for what, took_s in phases.items() if took_s > 0]
    sizes = []
    if estimate.swap_bytes:
        sizes.append(
            f"{bytes_text(estimate.swap_bytes)} in {search.directory} while groups are swapped"
        )
    if path:
        sizes.append(f"{bytes_text(estimate.file_bytes)} for {path}")
    texts = [f"about {_time(estimate.total_s)}: {', '.join(parts)}"] if parts else []
    texts += [f"disk: {', '.join(sizes)}"] if sizes else []
    if texts:
        errors.print("; ".join(texts), markup=False, soft_wrap=True)


def _time(seconds: float) -> str:
    return duration_text(max(1.0, seconds))
