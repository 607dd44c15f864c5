"""What a model's file says of sampling holds if request, command line and environment say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from dure.generate.file_sampling import file_sampling
from dure.model.gguf import GgufWriter, Value, ValueKind, open_gguf, value_of
from tests.support.dure_process import Dure, as_json
from tests.support.dure_server import DEMO, Home

F32, I32 = ValueKind.FLOAT32, ValueKind.INT32
STORY = "Tell me a story about a goat."


def demo_that_says(path: Path, **sampling: Value) -> Path:
    """Write the demo model with these values below `general.sampling`."""
    with open_gguf(DEMO) as model:
        said = {f"general.sampling.{name}": value for name, value in sampling.items()}
        tensors = list(model.tensors.values())
        with GgufWriter(path, {**model.metadata, **said}, tensors) as writer:
            for tensor in tensors:
                data = bytearray(tensor.size_bytes)
                model.read_into(tensor, 0, memoryview(data))
                writer.write(data)
    return path


@pytest.fixture
def greedy(tmp_path: Path) -> Path:
    """A model whose file asks for the likeliest token, and for a few things more."""
    return demo_that_says(
        tmp_path / "greedy.gguf",
        temp=value_of(F32, 0.0),
        top_k=value_of(I32, 20),
        top_p=value_of(F32, 0.8),
        penalty_repeat=value_of(F32, 1.05),
        penalty_last_n=value_of(I32, -1),
    )


def test_every_key_of_the_converter_is_read_and_nonsense_is_not(tmp_path: Path) -> None:
    """Of any kind of number; a value that no sampler takes, or a text, counts as absent."""
    said: dict[str, tuple[Value, Any]] = {
        "temp": (value_of(F32, 0.6), ("temperature", 0.6)),
        "top_k": (value_of(I32, -1), ("top_k", 0)),
        "top_p": (value_of(F32, 1.5), None),
        "min_p": (value_of(F32, 0.01), ("min_p", 0.01)),
        "xtc_probability": (value_of(F32, 0.5), ("xtc_probability", 0.5)),
        "xtc_threshold": (value_of(ValueKind.FLOAT64, 0.2), ("xtc_threshold", 0.2)),
        "penalty_last_n": (value_of(F32, float("inf")), None),
        "penalty_repeat": (value_of(F32, 1.1), ("repeat_penalty", 1.1)),
        "mirostat_tau": (value_of(F32, float("nan")), None),
        "mirostat": (value_of(ValueKind.UINT8, 2), ("mirostat", 2)),
        "mirostat_eta": (value_of(ValueKind.STRING, "much"), None),
    }
    path = tmp_path / "all.gguf"
    demo_that_says(path, **{name: value for name, (value, _) in said.items()})
    with open_gguf(path) as model:
        assert file_sampling(model) == dict(read for _, read in said.values() if read)
    with open_gguf(DEMO) as model:
        assert file_sampling(model) == {}


def test_a_run_follows_the_file_unless_it_is_told_otherwise(greedy: Path, tmp_path: Path) -> None:
    """The file's greedy sampling; the environment goes before it, and a flag before both."""
    dure = Dure(tmp_path / "cache")

    def text(model: Path, *options: str, **environment: str) -> str:
        arguments = ("run", model, STORY, "-n", "30", "-t", "1", "--seed", "5", "--json", *options)
        return str(as_json(dure(*arguments, **environment))["text"])

    likeliest = text(greedy)
    assert text(greedy, "--seed", "6") == likeliest
    hot = text(greedy, "--temp", "9")
    assert hot != likeliest
    assert text(greedy, DURE_TEMP="9") == hot
    assert text(greedy, "--temp", "0", DURE_TEMP="9") == likeliest
    assert text(DEMO, "--temp", "9") != hot  # for the file's top-k and penalty hold there
    shown = as_json(dure("show", greedy, "--json"))["sampling"]
    assert (shown["temperature"], shown["top_k"], shown["repeat_last_n"]) == (0, 20, -1)
    assert "temperature 0, " in " ".join(dure("show", greedy).stdout.split())


def test_a_server_tells_the_files_values_and_a_request_goes_before_them(
    greedy: Path, tmp_path: Path
) -> None:
    """`/props` has what holds: of the file, but for what the command line says."""
    with Home(tmp_path).serving("--top-p", "0.9", model=greedy) as server:
        props = httpx.get(f"{server.url}/props").json()["default_generation_settings"]["params"]
        body = {"prompt": "Once", "n_predict": 1, "top_k": 7}
        used = httpx.post(f"{server.url}/completion", json=body, timeout=60).json()
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
    assert [props[name] for name in names] == [0, 20, 0.9, 0.05, 1.05]
    settings = used["generation_settings"]
    assert [settings[name] for name in names] == [0, 7, 0.9, 0.05, 1.05]
