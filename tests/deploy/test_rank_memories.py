"""What a start takes beside the model: sums of inputs, and the logits of wide steps, are planned for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dure.deploy.options import RunOptions
from dure.deploy.rank_memories import with_options
from dure.deploy.start import start_model
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import plan_shards
from dure.plan.memory import LEAST_OUTPUTS, PREFILL, many_outputs, rank_memory, whole_memory
from tests.support.quantizing import MIXTURE, small_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GATHERING = RunOptions(gathers_inputs=True, threads=1, ctx=512)
COLUMNS = 2 * (256 * 3 + 256 + 256 + 4 * 3 * 256)  # in 2 layers: q, k, v, output, router, 4 experts
SUMS = 4 * COLUMNS


def test_sums_of_inputs_are_planned_for(tmp_path: Path) -> None:
    """A number for each column of each expert; where the command runs, three times more."""
    with open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model:
        memory, _ = whole_memory(model)
        (whole,) = with_options([memory], model, GATHERING)
        assert whole == replace(memory.with_other(4 * SUMS), least_outputs=PREFILL)
        assert with_options([memory], model, RunOptions()) == [memory]
        cut = plan_cut(model, [1, 1])
        ranks = [rank_memory(cut, shard.size) for shard in plan_shards(model, cut, tmp_path)]
        first, second = with_options(ranks, model, GATHERING, cut)
    assert first == replace(ranks[0].with_other(4 * SUMS), least_outputs=PREFILL)
    assert second == replace(ranks[1].with_other(SUMS), least_outputs=PREFILL)


def test_wide_steps_give_as_many_logits_as_a_little_memory_holds() -> None:
    """A row for each token of a step if the vocabulary is not large; what they take is planned for."""
    assert many_outputs(32_000) == PREFILL
    assert LEAST_OUTPUTS < many_outputs(152_000) < PREFILL
    assert many_outputs(10_000_000) == LEAST_OUTPUTS


def test_a_model_whose_inputs_are_gathered_runs_in_wide_steps() -> None:
    with open_gguf(DEMO) as model:
        for options, n_outputs in ((GATHERING, PREFILL), (RunOptions(threads=1), LEAST_OUTPUTS)):
            executor = start_model(model, options).executor
            assert executor.info.n_outputs == n_outputs
            executor.close()
