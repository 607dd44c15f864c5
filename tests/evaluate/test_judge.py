"""A model beside its original: the figures of `import dure`'s logits, on one rank and two, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import dure
from dure.deploy.options import RunOptions
from dure.deploy.start import start_model
from dure.engine.executor import FullExecutor
from dure.engine.wire import Wire
from dure.errors import ResourceError, UsageError
from dure.evaluate.judge import Original, check_same_words, identity_of, scores_of
from dure.evaluate.scores import perplexity_of
from dure.evaluate.store import check_room
from dure.evaluate.windows import TextWindows, cut_into_windows
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.random_models import SHAPES, write_random_model
from tests.support.variants import write_variant

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "dure-demo.gguf"
N_CTX = 64
OPTIONS = RunOptions(threads=1, ctx=N_CTX)
TEXT = (ROOT / "docs" / "models.md").read_text()

Doubles = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, with noise in one matrix."""
    path = tmp_path_factory.mktemp("variant") / "variant.gguf"
    write_variant(path, DEMO, 0.5)
    return path


@pytest.fixture(scope="module")
def windows(vocabulary: Vocabulary) -> TextWindows:
    tokens = vocabulary.tokenize(TEXT)
    return cut_into_windows(tokens, N_CTX, begin=vocabulary.begin, source="models.md", most=4)


@pytest.fixture(scope="module")
def original() -> Iterator[FullExecutor]:
    with open_gguf(DEMO) as gguf:
        executor = start_model(gguf, OPTIONS).executor
        yield executor
        executor.close()


@pytest.fixture(scope="module")
def changed(variant: Path) -> Iterator[FullExecutor]:
    with open_gguf(variant) as gguf:
        executor = start_model(gguf, OPTIONS).executor
        yield executor
        executor.close()


def log_probabilities(model: Path, windows: TextWindows) -> Doubles:
    """Return what `import dure` gives after each scored token: [n_windows, n_scored, n_vocab]."""
    with dure.open(model, threads=1, ctx=N_CTX) as running:
        rows = np.stack([running.logits(w[:-1].tolist())[N_CTX // 2 :] for w in windows.tokens])
    rows = rows.astype(np.float64)
    return np.asarray(rows - np.logaddexp.reduce(rows, axis=2, keepdims=True))


def test_the_figures_are_those_of_the_logits(
    tmp_path: Path,
    variant: Path,
    windows: TextWindows,
    original: FullExecutor,
    changed: FullExecutor,
) -> None:
    """Perplexity, KL divergence and agreement, computed from all logits in the plainest way."""
    kept = Original(windows, "demo", tmp_path)
    kept.fill(original)
    found = kept.compare(changed)
    log_p, log_q = (log_probabilities(model, windows) for model in (DEMO, variant))
    following = windows.tokens[:, N_CTX // 2 + 1 :, np.newaxis]
    nll_p, nll_q = (-np.take_along_axis(x, following, 2).mean() for x in (log_p, log_q))
    divergences = (np.exp(log_p) * (log_p - log_q)).sum(axis=2)
    agreement = (log_p.argmax(axis=2) == log_q.argmax(axis=2)).mean()
    assert divergences.mean() > 1e-3
    np.testing.assert_allclose(found.mean.value, divergences.mean(), rtol=1e-3)
    np.testing.assert_allclose(found.median.value, np.median(divergences), rtol=1e-2)
    np.testing.assert_allclose(found.percentile_99.value, np.quantile(divergences, 0.99), rtol=1e-3)
    np.testing.assert_allclose(found.agreement.value, agreement)
    np.testing.assert_allclose(found.perplexity.value, np.exp(nll_q), rtol=1e-4)
    np.testing.assert_allclose(found.original_perplexity.value, np.exp(nll_p), rtol=1e-4)
    np.testing.assert_allclose(found.perplexity_ratio.value, np.exp(nll_q - nll_p), rtol=1e-4)
    assert found.mean.low < found.mean.value < found.mean.high
    alone = perplexity_of(scores_of(changed, windows))
    assert alone == found.perplexity


def test_a_model_is_its_own_equal(
    tmp_path: Path, windows: TextWindows, original: FullExecutor
) -> None:
    """Beside itself its divergence is 0, and it agrees on every word."""
    kept = Original(windows, "demo", tmp_path)
    kept.fill(original)
    found = kept.compare(original)
    assert abs(found.mean.value) <= 1e-6
    assert abs(found.percentile_99.value) <= 1e-6
    assert (found.agreement.value, found.agreement.low) == (1.0, 1.0)
    assert found.perplexity_ratio.value == 1.0


def test_two_ranks_judge_as_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    windows: TextWindows,
    variant: Path,
    original: FullExecutor,
    changed: FullExecutor,
) -> None:
    """The original on one rank, the model cut over two with exact sums: the same divergence."""
    monkeypatch.setenv("DURE_CACHE", str(tmp_path / "cache"))
    kept = Original(windows, "demo", tmp_path)
    kept.fill(original)
    alone = kept.compare(changed)
    options = RunOptions(threads=1, ctx=N_CTX, ranks=2, wire=Wire.F32)
    with open_gguf(variant) as gguf:
        assert identity_of(gguf, options) != identity_of(gguf, OPTIONS)
        executor = start_model(gguf, options).executor
        try:
            cut = kept.compare(executor)
        finally:
            executor.close()
    np.testing.assert_allclose(cut.mean.value, alone.mean.value, rtol=2e-2)
    np.testing.assert_allclose(cut.perplexity.value, alone.perplexity.value, rtol=1e-3)


def test_what_is_kept_is_not_computed_again(
    tmp_path: Path, windows: TextWindows, original: FullExecutor
) -> None:
    """Only missing and damaged windows are read again, and the figures stay."""
    kept = Original(windows, "demo", tmp_path)
    kept.fill(original)
    (folder,) = tmp_path.iterdir()
    files = sorted(folder.iterdir())
    before = kept.compare(original)
    whole = [path.read_bytes() for path in files]
    files[0].unlink()
    files[1].write_bytes(whole[1][:-1])
    files[2].write_bytes(whole[2][:-1] + bytes([whole[2][-1] ^ 1]))
    again = Original(windows, "demo", tmp_path)
    assert not again.is_complete
    with pytest.raises(UsageError, match="missing or damaged: run the command again"):
        again.compare(original)
    steps: list[float] = []
    again.fill(original, steps.append)
    assert len(steps) == 3
    assert [path.read_bytes() for path in files] == whole
    assert again.compare(original) == before


def test_scores_are_kept_for_a_model_that_is_known(
    tmp_path: Path, windows: TextWindows, original: FullExecutor, changed: FullExecutor
) -> None:
    """With its identity, scores come from the disk, even if another model runs; without, never."""
    first = scores_of(changed, windows, "variant", directory=tmp_path)
    kept = scores_of(original, windows, "variant", directory=tmp_path)
    assert perplexity_of(kept) == perplexity_of(first)
    assert perplexity_of(scores_of(original, windows)) != perplexity_of(first)


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    """The error names both sizes, and what to do."""
    with pytest.raises(ResourceError, match=r"may take .* are free in .*: use a smaller --chunks"):
        check_room(1 << 60, tmp_path)


def test_models_of_unlike_vocabularies_are_not_compared(tmp_path: Path) -> None:
    """A model without the original's words is refused, with both names."""
    other = tmp_path / "other.gguf"
    write_random_model(other, SHAPES["qwen3"], "Q8_0")
    with open_gguf(DEMO) as one, open_gguf(other) as two:
        with pytest.raises(UsageError, match=r"other\.gguf has not the vocabulary of dure-demo"):
            check_same_words(one, two)
        check_same_words(one, one)


def test_a_text_is_cut_as_llama_perplexity_cuts_it() -> None:
    """Windows follow each other, each with the token that begins a text in place of its first."""
    windows = cut_into_windows(range(100, 135), 8, begin=1, source="text")
    assert windows.tokens.tolist()[1] == [1, *range(109, 116)]
    assert (windows.n_windows, windows.first, windows.n_scored) == (4, 4, 3)
    plain = cut_into_windows(range(100, 135), 8, begin=None, source="text", most=2)
    assert plain.tokens.tolist() == [list(range(100, 108)), list(range(108, 116))]


@pytest.mark.parametrize(
    ("n", "n_ctx", "most", "message"),
    [
        (31, 16, None, "text has 31 tokens: give 32 or more, or use --ctx 15"),
        (9, 16, None, "text has 9 tokens: give 32 or more"),
        (90, 4, None, "--ctx 4 is too short a window: give 8 or more"),
        (90, 8, 1, "--chunks 1: give 2 or more"),
    ],
)
def test_too_little_text_is_an_error(n: int, n_ctx: int, most: int | None, message: str) -> None:
    """The cure says how much is enough."""
    with pytest.raises(UsageError) as caught:
        cut_into_windows(range(n), n_ctx, begin=None, source="text", most=most)
    assert str(caught.value) == message
