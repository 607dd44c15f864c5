"""Products with few vectors on ARM, emulated: equal to scalar C to the last bit, and to ggml but for rounding."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dure.model.ggml import dequantize, type_named
from tests.arm64.layouts import BYTES, GROUP_ROWS, HALVES, side_by_side
from tests.arm64.test_native_code import COMPILER, EMULATOR, FLAGS, NATIVE, SEEN_BY_ALL
from tests.support.products import KINDS, Array, close_to, rounded

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason="apt install gcc-aarch64-linux-gnu qemu-user-static",
)
N_COLUMNS = 512
LAYOUTS = {"row by row": 0, "four bytes": 4, "eight bytes": 8}
# What kernels are compiled for, and the processor that runs them.
LEVELS = {"armv8-a": "cortex-a72", "armv8.2-a+dotprod": "cortex-a76"}


@dataclass(frozen=True)
class Case:
    """A matrix, whose rows are one by one (chunk 0) or side by side, and its vectors."""

    kind: str
    chunk: int
    rows: Array
    vectors: Array

    @property
    def laid(self) -> Array:
        """Return the rows as they lie."""
        return side_by_side(self.rows, self.kind, self.chunk) if self.chunk else self.rows

    def sent(self) -> bytes:
        """Return what the program reads."""
        layout = list(LAYOUTS.values()).index(self.chunk)
        head = (type_named(self.kind).id, layout, len(self.vectors), len(self.rows), N_COLUMNS)
        numbers = np.array([*map(int, head), self.rows.shape[1]], np.int32)
        parts = (numbers, self.rows, self.laid, self.vectors)
        return b"".join(part.tobytes() for part in parts)

    def exact(self) -> Array:
        """Return the product of ggml's weights and of rounded vectors: [vector, row]."""
        n = self.rows.size // BYTES[self.kind] * (256 if BYTES[self.kind] > 34 else 32)
        w = dequantize(self.rows.ravel(), type_named(self.kind), n).reshape(len(self.rows), -1)
        return rounded(self.vectors, self.kind) @ w.astype(float).T


def any_rows(kind: str, n_rows: int, random: np.random.Generator) -> Array:
    """Return rows of any bytes, but with scales of ordinary size and both signs."""
    per_row = N_COLUMNS // (256 if BYTES[kind] > 34 else 32)
    blocks = random.integers(0, 256, (n_rows, per_row, BYTES[kind]), np.uint8)
    for at in HALVES[kind]:
        scales = random.normal(0, 1, (n_rows, per_row)).astype(np.float16)
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    if kind == "MXFP4":  # few of them denormal, and none of them infinite
        blocks[..., 0] = random.choice([0, 1, 2, 120, 127, 133], (n_rows, per_row))
    blocks[0, 0, BYTES[kind] // 3 : BYTES[kind] // 2] = 0xFF  # the largest numbers of most types
    return blocks.reshape(n_rows, -1)


def cases(has_dots: bool) -> Iterator[Case]:
    """Yield every type in every layout, with one vector and with more, one of them the largest possible."""
    random = np.random.default_rng(3)
    for kind in KINDS:
        for chunk in LAYOUTS.values():
            none = chunk == 8 and kind in {"IQ4_NL", "MXFP4"}
            if chunk and (not has_dots or kind not in GROUP_ROWS or none):
                continue
            for n in (1, 2, 3):
                vectors = random.normal(0, 1, (n, N_COLUMNS)).astype(np.float32)
                vectors[-1] = np.sign(vectors[-1]) * (n + 1)
                vectors[0, 32:64] = 0
                n_rows = GROUP_ROWS[kind] * 3 if chunk else 19
                yield Case(kind, chunk, any_rows(kind, n_rows, random), vectors)


@pytest.mark.parametrize(("level", "cpu"), LEVELS.items(), ids=list(LEVELS))
def test_few_vectors_give_the_bits_of_scalar_c(level: str, cpu: str, tmp_path: Path) -> None:
    program = tmp_path / "few_vectors"
    sources = [
        Path(__file__).with_name("few_vectors.c"),
        *(NATIVE / name for name in ("arm_matvec.c", "activations.c")),
    ]
    includes = [f"-I{folder}" for folder in (NATIVE, *SEEN_BY_ALL)]
    flags = [f"-march={level}", *FLAGS, "-ffp-contract=off", "-static", *includes]
    subprocess.run([COMPILER, *flags, "-o", program, *sources, "-lm"], check=True)
    all_cases = list(cases("dotprod" in level))
    sent = b"".join(case.sent() for case in all_cases)
    done = subprocess.run([EMULATOR, "-cpu", cpu, program], input=sent, stdout=-1, check=True)
    found = np.frombuffer(done.stdout, np.float32)
    for case in all_cases:
        shape = (2, len(case.vectors), len(case.rows))
        ours, scalar = found[: np.prod(shape)].reshape(shape)
        found = found[np.prod(shape) :]
        what = f"{case.kind}, {case.chunk} bytes of a row in turn, {len(case.vectors)} vectors"
        assert ours.tobytes() == scalar.tobytes(), what
        assert ours == close_to(case.exact(), rel=1e-4), what
    assert not found.size
