"""Runs of tuning, whole: what is learned, what is kept, and what is there after everything goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from dure.errors import DureError, ModelError, ResourceError, UsageError
from dure.tune.loop.events import (
    Evaluated,
    ModelReady,
    Notice,
    Resumed,
    RunEnded,
    Saved,
    StepLearned,
    TuneEvent,
)
from dure.tune.loop.prepared import Prepared
from dure.tune.loop.run import tune_model
from dure.tune.loop.training import Stopped
from dure.tune.settings import Arithmetic, TuneMethod, TuneSettings
from tests.support.needs_root import needs_root
from tests.support.tiny_models import SHAPE, chats, write_lines, write_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TuneSettings:
    folder = tmp_path_factory.mktemp("tune")
    data = write_lines(folder / "chats.jsonl", *chats(60))
    return TuneSettings(
        base=write_tiny_model(folder / "base"),
        data=(str(data),),
        method=TuneMethod.FULL,
        lr=3e-3,
        ctx=128,
        steps=12,
        eval_split=0.2,
        eval_every=4,
        dtype=Arithmetic.FLOAT32,
    )


class Seen(list[TuneEvent]):
    """What a run has told; it may be stopped after a step."""

    stop_after = 10**9

    def __call__(self, event: TuneEvent) -> None:
        self.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [one for one in self if isinstance(one, kind)]

    def is_stopped(self) -> bool:
        return len(self.of(StepLearned)) >= self.stop_after


def run(settings: TuneSettings, out: Path, **options: Any) -> tuple[RunEnded, Seen]:
    seen = Seen()
    return tune_model(settings, out, seen, **options), seen


def journal(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]


def test_all_weights_learn_and_the_best_are_written(settings: TuneSettings, tmp_path: Path) -> None:
    done, seen = run(replace(settings, steps=60), tmp_path / "out")
    evaluations = seen.of(Evaluated)
    best = min(evaluations, key=lambda one: one.loss)
    assert (done.step, done.eval_loss) == (best.step, best.loss)
    assert best.loss < 0.6 * evaluations[0].loss
    assert seen.of(ModelReady)[0].learned == seen.of(ModelReady)[0].weights
    model = AutoModelForCausalLM.from_pretrained(done.path)
    kept = torch.load(tmp_path / f"out/checkpoints/step-{best.step:06}/weights.pt")
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in kept.items())
    assert (tmp_path / "out/loss.png").read_bytes().startswith(b"\x89PNG")


def test_an_adapter_learns_beside_frozen_weights(settings: TuneSettings, tmp_path: Path) -> None:
    """What is written is peft's folder: it reads that, and merges it into the same weights."""
    from peft import PeftModel

    lora = replace(settings, method=TuneMethod.LORA, rank=4, steps=40, lr=3e-2)
    done, seen = run(lora, tmp_path / "out")
    losses = [one.loss for one in seen.of(StepLearned)]
    assert losses[-1] < 0.95 * losses[0]
    assert seen.of(ModelReady)[0].learned < seen.of(ModelReady)[0].weights / 3
    base = AutoModelForCausalLM.from_pretrained(settings.base)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):  # of peft's own reading
        tuned = PeftModel.from_pretrained(base, done.path)
    merged = tuned.merge_and_unload().state_dict()
    assert {name for name in before if not torch.equal(before[name], merged[name])} == {
        name for name in before if "_proj" in name
    }


def test_a_new_model_is_made_of_a_configuration(settings: TuneSettings, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps({"model_type": "llama", **SHAPE, "hidden_size": 24, "head_dim": 6})
    )
    scratch = replace(settings, method=TuneMethod.SCRATCH, config=config, lr=None)
    done, _ = run(scratch, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(done.path)
    assert (model.config.model_type, model.config.hidden_size) == ("llama", 24)
    assert model.config.eos_token_id == 258  # the tokenizer's
    config.write_text(json.dumps({"model_type": "llama", **SHAPE, "vocab_size": 9}))
    with pytest.raises(UsageError, match=r"a vocab_size of 9, and the tokenizer has 259 tokens"):
        run(scratch, tmp_path / "small")


def test_a_step_is_the_same_however_its_rows_are_divided(
    settings: TuneSettings, tmp_path: Path
) -> None:
    """The loss is the mean over all tokens of the step, not of the means of its passes."""
    whole = replace(settings, batch=4, accumulate=1, eval_split=0.0, steps=4)
    divided = replace(whole, batch=1, accumulate=4)
    _, one = run(whole, tmp_path / "whole")
    _, other = run(divided, tmp_path / "divided")
    for a, b in zip(one.of(StepLearned), other.of(StepLearned), strict=True):
        assert (a.loss, a.norm) == pytest.approx((b.loss, b.norm), rel=1e-4)


def test_keeping_less_for_the_gradient_changes_nothing(
    settings: TuneSettings, tmp_path: Path
) -> None:
    few = replace(settings, steps=4, eval_split=0.0)
    _, one = run(few, tmp_path / "kept")
    _, other = run(replace(few, checkpointing=True), tmp_path / "computed")
    found = [[step.loss for step in seen.of(StepLearned)] for seen in (one, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_bf16_learns_as_float32_does(settings: TuneSettings, tmp_path: Path) -> None:
    many = replace(settings, steps=40)
    exact, _ = run(many, tmp_path / "f32")
    rounded, _ = run(replace(many, dtype=Arithmetic.BFLOAT16), tmp_path / "bf16")
    assert rounded.eval_loss == pytest.approx(exact.eval_loss, rel=0.02)


def test_a_run_that_was_stopped_goes_on_with_the_same_losses(
    settings: TuneSettings, tmp_path: Path
) -> None:
    """Bit by bit, with an adapter's dropout, which needs chance in every step."""
    lora = replace(settings, method=TuneMethod.LORA, dropout=0.3, accumulate=2)
    run(lora, tmp_path / "whole")
    seen = Seen()
    seen.stop_after = 5
    with pytest.raises(Stopped):
        tune_model(lora, tmp_path / "parts", seen, is_stopped=seen.is_stopped)
    _, later = run(lora, tmp_path / "parts")
    assert later.of(Resumed) == [Resumed(5, 12)]
    assert journal(tmp_path / "parts") == journal(tmp_path / "whole")


def test_what_speaks_against_a_run_is_asked_before_it_is_loaded(
    settings: TuneSettings, tmp_path: Path
) -> None:
    """Whenever it begins or goes on; if something does, the folder may be used for other settings."""
    asked: list[bool] = []

    def refuse(prepared: Prepared, is_resumed: bool) -> None:
        asked.append(is_resumed)
        raise ResourceError(f"{prepared.ctx} tokens are too many", "use fewer")

    seen = Seen()
    with pytest.raises(ResourceError, match="128 tokens are too many"):
        tune_model(settings, tmp_path, seen, check=refuse)
    assert not seen.of(ModelReady)
    seen.stop_after = 2
    with pytest.raises(Stopped):
        tune_model(replace(settings, lr=1e-3), tmp_path, seen, is_stopped=seen.is_stopped)
    with pytest.raises(ResourceError):
        tune_model(replace(settings, lr=1e-3), tmp_path, Seen(), check=refuse)
    assert asked == [False, True]


def test_other_settings_are_refused_by_name(settings: TuneSettings, tmp_path: Path) -> None:
    seen = Seen()
    seen.stop_after = 2
    with pytest.raises(Stopped):
        tune_model(settings, tmp_path / "out", seen, is_stopped=seen.is_stopped)
    with pytest.raises(UsageError, match=r"begun with --lr 0.003, and now it is 0.001.*--restart"):
        run(replace(settings, lr=1e-3), tmp_path / "out")
    data = Path(settings.data[0])
    before = data.read_text()
    try:
        data.write_text(before + json.dumps(chats(1)[0]) + "\n")
        with pytest.raises(UsageError, match="the content of --data"):
            run(settings, tmp_path / "out")
    finally:
        data.write_text(before)
    _, seen = run(
        replace(settings, checkpointing=True), tmp_path / "out"
    )  # but for rounding, the same
    assert seen.of(Resumed)
    done, seen = run(replace(settings, lr=1e-3), tmp_path / "out", restart=True)
    assert done.steps == 12
    assert not seen.of(Resumed)


def test_a_run_that_has_ended_is_not_begun_again(settings: TuneSettings, tmp_path: Path) -> None:
    first, _ = run(settings, tmp_path / "out")
    second, seen = run(settings, tmp_path / "out")
    assert first == second
    assert [type(one) for one in seen] == [Notice]


def test_it_ends_early_if_it_gets_no_better(settings: TuneSettings, tmp_path: Path) -> None:
    """And the best weights are the result, not the last."""
    hasty = replace(settings, lr=0.2, warmup=0.0, patience=2, steps=400, eval_every=2)
    done, seen = run(hasty, tmp_path / "out")
    losses = [one.loss for one in seen.of(Evaluated)]
    assert done.stopped_early
    assert done.steps < 400
    assert done.step == 2 * (losses.index(min(losses)) + 1) == done.steps - 4


def test_two_runs_do_not_write_into_one_folder(settings: TuneSettings, tmp_path: Path) -> None:
    errors: list[str] = []

    def tell(event: TuneEvent) -> None:
        if isinstance(event, StepLearned) and not errors:
            with pytest.raises(UsageError) as caught:
                run(settings, tmp_path)
            errors.append(str(caught.value))

    tune_model(settings, tmp_path, tell)
    assert "another `dure tune` is writing into" in errors[0]


def test_what_is_no_number_ends_the_run(settings: TuneSettings, tmp_path: Path) -> None:
    """A loss at once; gradients, which change nothing, after three steps in a row."""
    wild = replace(settings, lr=0.99, clip=0.0, warmup=0.0, eval_split=0.0, steps=300)
    base = write_tiny_model(tmp_path / "base", initializer_range=1e18)
    with pytest.raises(
        ModelError, match=r"(step \d+ is not a number|up to step 3 are not).*lower --lr"
    ):
        run(replace(wild, base=base), tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a disk of 2 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> Callable[[], None]:
    """Fill a disk to its last byte; return what empties it again."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return path.unlink


@needs_root
def test_a_full_disk_is_told_and_the_last_checkpoint_is_whole(
    settings: TuneSettings, small_disk: Path, tmp_path: Path
) -> None:
    """Once there is room, the run goes on, with the losses that it would have had."""
    many = replace(settings, eval_split=0.0)
    run(many, tmp_path / "whole")
    empty: list[Callable[[], None]] = []

    def tell(event: TuneEvent) -> None:
        if isinstance(event, Saved) and event.step == 6:
            empty.append(fill(small_disk))

    out = small_disk / "out"
    with pytest.raises(ResourceError, match="cannot be written") as caught:
        tune_model(many, out, tell, save_every=3)
    assert "make room, and give the same command again" in caught.value.cure
    assert [one.name for one in (out / "checkpoints").iterdir()] == ["step-000006"]
    empty[0]()
    _, seen = run(many, out, save_every=3)
    assert seen.of(Resumed) == [Resumed(6, 12)]
    assert journal(out) == journal(tmp_path / "whole")


def test_a_checkpoint_that_was_not_finished_is_forgotten(
    settings: TuneSettings, tmp_path: Path
) -> None:
    seen = Seen()
    seen.stop_after = 3
    with pytest.raises(Stopped):
        tune_model(settings, tmp_path, seen, is_stopped=seen.is_stopped)
    part = tmp_path / "checkpoints/step-000004.part"
    part.mkdir()
    (part / "weights.pt").write_bytes(b"half")
    _, later = run(settings, tmp_path)
    assert later.of(Resumed) == [Resumed(3, 12)]
    assert not part.exists()


def test_a_damaged_checkpoint_is_told(settings: TuneSettings, tmp_path: Path) -> None:
    seen = Seen()
    seen.stop_after = 3
    with pytest.raises(Stopped):
        tune_model(settings, tmp_path, seen, is_stopped=seen.is_stopped)
    path = tmp_path / "checkpoints/step-000003/optimizer.pt"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ModelError, match=r"optimizer.pt is damaged.*--restart"):
        run(settings, tmp_path)


def test_tensorboard_files_are_written_if_it_is_there(
    settings: TuneSettings, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="it is no part of the tests' packages")
    from dure.tune.loop.tensorboard import event_files

    with event_files(tmp_path / "events") as tell:
        tune_model(settings, tmp_path / "out", tell)
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"lr": 2.0}, "--lr 2.0"),
        ({"steps": 0}, "--steps 0"),
        ({"ctx": 4}, "--ctx 4"),
        ({"ctx": 500}, "--ctx 500 is longer than the 256 tokens"),
        ({"base": Path("/nowhere")}, "/nowhere is no model that can be tuned"),
        ({"data": ("/nowhere.jsonl",)}, "/nowhere.jsonl cannot be read"),
        ({"data": ("no.package:function",)}, "--data no.package:function"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    settings: TuneSettings, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DureError, match=problem) as caught:
        run(replace(settings, **change), tmp_path / "out")
    assert caught.value.cure
