"""Runs models cut over real ranks, and whole ones to compare them with.

Knows how the tests cut and step. Refuses to know which cases matter and which error is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import psutil

from dure.engine.executor import Batch, Executor
from dure.engine.kv import Clear, KvOp
from dure.engine.limits import Limits, OffloadedLayers
from dure.engine.local import LocalExecutor
from dure.engine.ranks.mpi import MpiExecutor, MpiOptions
from dure.engine.wire import Wire
from dure.model.cut import CutPlan, plan_cut
from dure.model.ggml import dequantize, quantize, type_named
from dure.model.gguf import GgufFile, GgufWriter, TensorSpec, open_gguf
from dure.model.shard import cut_model, plan_shards
from tests.support.random_models import reference_logits

Floats = npt.NDArray[np.float32]

LIMITS = Limits(n_ctx=512, threads=1, n_sequences=4)


@contextmanager
def cut_executor(
    path: Path,
    shares: Sequence[float],
    directory: Path,
    *,
    wire: Wire = Wire.F32,
    limits: Limits = LIMITS,
    staged: bool = False,
    two_phase_above: float | None = None,
    gpus: Sequence[OffloadedLayers] = (),
) -> Iterator[MpiExecutor]:
    """Cut the model at `path` into `directory` and run it on one rank per share.

    gpus: what of each rank lies on one.
    """
    with open_gguf(path) as model:
        plan = plan_cut(model, shares)
        shards = plan_shards(model, plan, directory)
        cut_model(model, shards)
    executor = MpiExecutor(
        path,
        [shard.path for shard in shards],
        plan,
        limits,
        options=MpiOptions(wire=wire, staged=staged, two_phase_above=two_phase_above),
        gpus=gpus,
    )
    try:
        yield executor
    finally:
        executor.close()


def rank_pids() -> list[int]:
    """Return the process IDs of the ranks that this process started, in no order."""
    started = psutil.Process().children(recursive=True)
    return [p.pid for p in started if p.cmdline()[1:3] == ["-m", "dure.engine.ranks.rank"]]


@contextmanager
def whole_executor(path: Path, limits: Limits = LIMITS) -> Iterator[LocalExecutor]:
    """Run the whole model in this process."""
    executor = LocalExecutor(path, limits)
    try:
        yield executor
    finally:
        executor.close()


def step(
    executor: Executor,
    tokens: Sequence[int],
    position: int,
    *,
    sequence: int = 0,
    kv: Sequence[KvOp] = (),
) -> Floats:
    """Decode tokens of one sequence; return all logits of the last one, float32 [n_vocab]."""
    n = len(tokens)
    batch = Batch(
        np.array(tokens, np.int32),
        np.arange(position, position + n, dtype=np.int32),
        np.full(n, sequence, np.int32),
        [n - 1],
        top_k=1,
        kv=kv,
    )
    best = executor.step(batch).rows[0]
    logits = executor.logits(0)
    assert best.ids[0] == int(logits.argmax()), "the best token is the best of all logits"
    return logits


def prefill_and_decode(executor: Executor, tokens: Sequence[int], n_prefill: int) -> Floats:
    """Return logits after `tokens[:n_prefill]`, then after each further token: [rows, n_vocab]."""
    rows = [step(executor, tokens[:n_prefill], 0, kv=[Clear()])]
    for i in range(n_prefill, len(tokens)):
        rows.append(step(executor, [tokens[i]], i))
    return np.stack(rows)


def reencoded_whole(model: GgufFile, plan: CutPlan, path: Path) -> Path:
    """Write the whole model to `path`, with the tensors re-encoded that `plan` re-encodes."""
    specs = [TensorSpec(t.name, t.shape, plan.type_of(t)) for t in model.tensors.values()]
    with GgufWriter(path, dict(model.metadata), specs) as writer:
        for tensor in model.tensors.values():
            data = model.read(tensor, 0, tensor.size_bytes)
            if tensor.name not in plan.reencoded:
                writer.write(data)
                continue
            floats = dequantize(data, tensor.type, tensor.n_elements)
            rows = floats.reshape(tensor.n_rows, tensor.shape[0])
            writer.write(quantize(rows, plan.reencoded[tensor.name]))
    return path


def write_in_type(source: Path, type_name: str, path: Path) -> Path:
    """Write a model of floats to `path` with its matrices in a type."""
    type_ = type_named(type_name)
    with open_gguf(source) as model:
        tensors = model.tensors.values()
        types = [type_ if len(t.shape) > 1 else t.type for t in tensors]
        specs = [TensorSpec(t.name, t.shape, to) for t, to in zip(tensors, types, strict=True)]
        with GgufWriter(path, dict(model.metadata), specs) as writer:
            for tensor, to in zip(tensors, types, strict=True):
                data = model.read(tensor, 0, tensor.size_bytes)
                floats = dequantize(data, tensor.type, tensor.n_elements)
                writer.write(quantize(floats.reshape(tensor.n_rows, tensor.shape[0]), to))
    return path


def relative_error(logits: Floats, reference: Floats) -> float:
    """Return the norm of the difference, divided by that of the reference."""
    return float(np.linalg.norm(logits - reference) / np.linalg.norm(reference))


def most_error(type_name: str) -> float:
    """Return the largest `relative_error` of a cut model with weights of this type and float32 sums.

    Quantized activations: a difference in the last bit of a sum can flip a rounding, which is 1/127 of
    a block's largest value; F16 weights round activations to 11 bits in the same way, and a processor
    that computes with 16-bit floats adds up in them too.
    """
    adds_halves = b"FP16_VA = 1" in llama_cpp.llama_print_system_info()
    return {"F32": 1e-3, "F16": 1e-2 if adds_halves else 1e-3}.get(type_name, 2e-2)


def reference_of_cut(
    path: Path,
    shares: Sequence[float],
    tokens: Sequence[int],
    n_prefill: int,
    known: dict[tuple[str, ...], Floats],
) -> tuple[Floats, int]:
    """Return llama.cpp's logits of the whole model as this cut encodes it, and how many tensors changed.

    known: references that were computed before, by what was changed.
    """
    if () not in known:
        known[()] = reference_logits(path, tokens, n_prefill)
    with open_gguf(path) as model:
        plan = plan_cut(model, shares)
        changes = tuple(sorted(f"{name} {t.name}" for name, t in plan.reencoded.items()))
        if changes not in known:
            whole = reencoded_whole(model, plan, path.with_name("reencoded.gguf"))
            known[changes] = reference_logits(whole, tokens, n_prefill)
    return known[changes], len(changes)
