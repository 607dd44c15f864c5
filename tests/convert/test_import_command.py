"""`dure import` as a user runs it: where the file goes, what is said, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.huggingface_folders import (
    byte_level_tokenizer,
    write_json,
    write_llama,
    write_wide,
)

DURE = Path(sys.executable).with_name("dure")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a tiny model, called tiny-3m."""
    return write_llama(tmp_path / "tiny-3m")


def dure(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(one) for one in (DURE, *words)],
        env={**os.environ, "DURE_MODELS": str(tmp_path / "models"), "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_goes_where_models_are(tmp_path: Path, folder: Path) -> None:
    """Without --out the file lies in dure's own directory under the folder's name, and `dure ls` has it."""
    facts = told(dure(tmp_path, "import", folder, "--json"))
    path = tmp_path / "models" / "tiny-3m-F32.gguf"
    assert facts["path"] == str(path)
    assert (facts["architecture"], facts["type"]) == ("llama", "F32")
    [listed] = told(dure(tmp_path, "ls", "--json"))
    assert listed["name"] == "tiny-3m-F32.gguf"
    assert listed["architecture"] == "llama"
    assert facts["parameters"] == listed["parameters"]


def test_the_size_is_told_before_and_the_place_after(tmp_path: Path, folder: Path) -> None:
    """The estimate is on stderr; stdout has the path alone, for scripts."""
    done = dure(tmp_path, "import", folder, "--type", "q8_0", "--out", tmp_path / "a.gguf")
    assert done.stdout == f"{tmp_path / 'a.gguf'}\n"
    assert "tiny-3m (llama" in done.stderr
    assert "in Q8_0, F32" in done.stderr


def test_a_dry_run_writes_nothing(tmp_path: Path, folder: Path) -> None:
    """It says what would be written, with the exact size of the tensors."""
    tried = told(dure(tmp_path, "import", folder, "--dry-run", "--json"))
    assert not list((tmp_path / "models").glob("*.gguf"))
    real = told(dure(tmp_path, "import", folder, "--json"))
    assert tried["dry_run"]
    assert tried["size_bytes"] == real["size_bytes"]


def test_a_file_is_replaced_only_by_force(tmp_path: Path, folder: Path) -> None:
    """Hours of work are not lost to a repeated command."""
    out = tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    done = dure(tmp_path, "import", folder, "--out", out)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert out.read_bytes() == b"mine"
    assert dure(tmp_path, "import", folder, "--out", out, "--force").returncode == 0
    with open_gguf(out) as gguf:
        assert gguf.str("general.name") == "tiny-3m"


def test_a_full_disk_is_noticed_before(tmp_path: Path) -> None:
    """A model that does not fit is refused with both sizes, and nothing is begun."""
    folder = write_wide(tmp_path / "huge", 2_000_000_000)  # 1.5 TB of a file that is a hole
    done = dure(tmp_path, "import", folder)
    assert done.returncode == 1
    assert "are free" in done.stderr
    assert not list((tmp_path / "models").glob("*.gguf*"))


@pytest.mark.parametrize("out", ["model", "model.bin"])
def test_another_ending_is_refused(tmp_path: Path, folder: Path, out: str) -> None:
    """dure finds models by .gguf; an existing folder gets the usual name."""
    done = dure(tmp_path, "import", folder, "--out", tmp_path / out)
    assert done.returncode == 2
    assert f"{out}.gguf" in done.stderr
    (tmp_path / out).mkdir()
    facts = told(dure(tmp_path, "import", folder, "--out", tmp_path / out, "--json"))
    assert facts["path"] == str(tmp_path / out / "tiny-3m-F32.gguf")


def test_a_snapshot_in_the_hubs_cache_has_the_repositorys_name(tmp_path: Path) -> None:
    """`hf download` leaves links in a folder that is called like a commit."""
    snapshot = tmp_path / "models--owner--Tiny-1B" / "snapshots" / "0123abcd"
    snapshot.parent.mkdir(parents=True)
    write_llama(snapshot)
    blobs = tmp_path / "models--owner--Tiny-1B" / "blobs"
    blobs.mkdir()
    (snapshot / "model.safetensors").rename(blobs / "beef")
    (snapshot / "model.safetensors").symlink_to(blobs / "beef")
    assert told(dure(tmp_path, "import", snapshot, "--json"))["name"] == "Tiny-1B"


def test_all_that_ends_an_answer_ends_it(tmp_path: Path, folder: Path) -> None:
    """generation_config.json may name several tokens; sampling of the authors is kept, too."""
    tokenizer = byte_level_tokenizer()
    tokenizer["added_tokens"] += [
        {"id": 302, "content": "[halt]", "special": True},
        {"id": 303, "content": "[tool]", "special": False},
    ]
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(
        folder / "generation_config.json",
        {"eos_token_id": [301, 302, 303], "temperature": 0.6, "top_k": 20, "top_p": 0.95},
    )
    path = Path(told(dure(tmp_path, "import", folder, "--json"))["path"])
    with open_gguf(path) as gguf:
        vocabulary = Vocabulary(gguf)
        assert all(vocabulary.is_end(token) for token in (301, 302, 303))
        assert not vocabulary.is_end(300)
        assert vocabulary.tokenize("hello<|stop|>", special=True) == [300, 259, 301]
        vocabulary.close()
        assert gguf.int("general.sampling.top_k") == 20
        assert round(gguf.float("general.sampling.temp"), 3) == 0.6


TEMPLATES = {
    "in a file": {"chat_template.jinja": "main"},
    "in the older file": {"chat_template.json": json.dumps({"chat_template": "main"})},
    "in the configuration": {"tokenizer_config.json": json.dumps({"chat_template": "main"})},
    "in both, of which the file counts": {
        "chat_template.jinja": "main",
        "tokenizer_config.json": json.dumps({"chat_template": "old"}),
    },
    "by name in the configuration": {
        "tokenizer_config.json": json.dumps(
            {
                "chat_template": [
                    {"name": "default", "template": "main"},
                    {"name": "tool_use", "template": "tools"},
                ]
            }
        )
    },
    "by name in files": {
        "chat_template.jinja": "main",
        "additional_chat_templates/tool_use.jinja": "tools",
    },
}


@pytest.mark.parametrize("place", TEMPLATES)
def test_the_template_is_found_wherever_it_is(tmp_path: Path, folder: Path, place: str) -> None:
    """transformers 4 and 5 keep it in different places, some models have one for tools."""
    for name, text in TEMPLATES[place].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    if "tokenizer_config.json" in TEMPLATES[place]:  # the post-processor's token needs its role
        values = json.loads((folder / "tokenizer_config.json").read_text())
        write_json(folder / "tokenizer_config.json", {**values, "bos_token": "<|begin|>"})
    path = Path(told(dure(tmp_path, "import", folder, "--json"))["path"])
    with open_gguf(path) as gguf:
        assert gguf.str("tokenizer.chat_template") == "main"
        tools = gguf.str("tokenizer.chat_template.tool_use", "")
        assert tools == ("tools" if "by name" in place else "")
