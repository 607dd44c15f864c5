"""An import that is killed leaves nothing that looks whole, whatever it imports."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dure.model.gguf import open_gguf
from tests.support.dllama_pairs import tokenizer_of, write_dllama_model
from tests.support.huggingface_folders import write_llama
from tests.support.peft_folders import factors, write_adapter_folder

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
DURE = Path(sys.executable).with_name("dure")
SOURCES = ("folder", "pair", "adapter", "merged")
_WAITING = """
import sys, time
from pathlib import Path
from dure.convert.model import write_model
from dure.convert.sources import Asked, source_of
source, out, base, merge = sys.argv[1:]
asked = Asked(base=Path(base) if base else None, merge=bool(merge))
with source_of(Path(source)).opened(Path(source), asked) as model:
    write_model(model, Path(out), lambda done: time.sleep(600))
"""


def write_source(folder: Path, kind: str) -> Path:
    """Write something to import."""
    if kind == "folder":
        return write_llama(folder / "model")
    if kind == "pair":
        model = folder / "dllama_model_goat_f16.m"
        write_dllama_model(model, DEMO, "F16")
        (folder / "dllama_tokenizer_goat.t").write_bytes(tokenizer_of(DEMO).file())
        return model
    return write_adapter_folder(folder / "lora", factors("model.layers.1.mlp.up_proj", 256, 768, 4))


@pytest.mark.parametrize("kind", SOURCES)
def test_a_killed_import_leaves_nothing_that_looks_whole(tmp_path: Path, kind: str) -> None:
    """Killed while it writes, the file is not there; the next import ignores what is left."""
    source, out = write_source(tmp_path, kind), tmp_path / "out.gguf"
    base, merge = str(DEMO) if kind in {"adapter", "merged"} else "", "1" * (kind == "merged")
    process = subprocess.Popen([sys.executable, "-c", _WAITING, source, out, base, merge])
    part = tmp_path / "out.gguf.part"
    while not (part.exists() and part.stat().st_size > 0):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part.exists()
    assert not out.exists()
    options = [*(["--base", base] if base else []), *(["--merge"] if merge else [])]
    subprocess.run([DURE, "import", source, "--out", out, *options], check=True)
    with open_gguf(out) as gguf:
        assert gguf.tensors
    assert not part.exists()
