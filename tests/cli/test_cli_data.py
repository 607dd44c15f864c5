"""What `dure show`, `cut` and `bench` say: facts about files, shards and speed."""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.cluster.software import versions
from dure.hardware.probe import probe
from dure.model.gguf import open_gguf
from dure.plan.memory import whole_memory
from tests.support.dure_process import Dure, as_json, error_line
from tests.support.random_models import SHAPES, Shape, write_random_model, write_split

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
ESCAPE = "\x1b"


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program; after every test, none of its processes is left."""
    program = Dure(tmp_path / "cache")
    yield program
    assert program.left_behind() == []


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of every architecture that can be cut, in Q4_K: its blocks forbid some cuts."""
    directory = tmp_path_factory.mktemp("random")
    paths = {name: directory / f"{name}.gguf" for name in SHAPES}
    for name, path in paths.items():
        write_random_model(path, SHAPES[name], "Q4_K")
    return paths


# ---------------------------------------------------------------- show


def test_show_tells_what_the_demo_model_is(dure: Dure) -> None:
    """Architecture, size, types, context and a row for 1 to 8 ranks are there to read."""
    done = dure("show", DEMO)
    assert (done.returncode, done.stderr) == (0, "")
    for pattern in (
        r"architecture +qwen3\n",
        r"size +7\.4 MB in 1 file",
        r"types +.*F16 \d+ .*F32 \d+",
        r"context +2048 tokens",
        r"shape +.*layers 4.*query heads 8.*kv heads 4",
        r"\n8 +\d+",
    ):
        assert re.search(pattern, done.stdout), (pattern, done.stdout)


def test_show_json_has_the_same_facts(dure: Dure) -> None:
    """--json gives files, sizes, shape, types and every cut."""
    facts = as_json(dure("show", DEMO, "--json"))
    assert facts["architecture"] == "qwen3"
    assert facts["size_bytes"] == DEMO.stat().st_size
    assert facts["files"] == [str(DEMO)]
    assert facts["shape"]["context_length"] == 2048
    assert sum(entry["bytes"] for entry in facts["types"].values()) == facts["cuts"][0]["bytes"][0]
    assert [cut["ranks"] for cut in facts["cuts"]] == list(range(1, 9))
    assert [len(cut["bytes"]) for cut in facts["cuts"]] == list(range(1, 9))


@pytest.mark.parametrize("name", SHAPES)
def test_show_promises_the_sizes_that_cut_then_writes(
    dure: Dure, random_models: dict[str, Path], name: str, tmp_path: Path
) -> None:
    """For every architecture, a rank's bytes in `show` are the bytes of the tensors in its shard."""
    model, shape = random_models[name], SHAPES[name]
    facts = as_json(dure("show", model, "--json"))
    assert facts["architecture"] == shape.arch
    assert facts["shape"]["query_heads"] == shape.n_head
    assert all(cut["possible"] for cut in facts["cuts"])
    for ranks in (3, 4):
        shards = as_json(dure("cut", model, "--ranks", ranks, "--out", tmp_path, "--json"))
        promised = facts["cuts"][ranks - 1]
        assert [shard["weights_bytes"] for shard in shards["shards"]] == promised["bytes"]
        assert shards["reencoded"] == promised["reencoded"]
        for shard, size in zip(shards["shards"], promised["bytes"], strict=True):
            with open_gguf(Path(shard["path"])) as gguf:
                assert sum(tensor.size_bytes for tensor in gguf.tensors.values()) == size


@pytest.mark.parametrize("name", SHAPES)
def test_show_prints_every_architecture(
    dure: Dure, random_models: dict[str, Path], name: str
) -> None:
    """The text names the architecture and has a row for each of 1 to 8 ranks."""
    done = dure("show", random_models[name])
    assert f"architecture  {SHAPES[name].arch}\n" in done.stdout
    rows = re.findall(r"^([1-8]) +\d.* [kM]?B", done.stdout, re.MULTILINE)
    assert rows == list("12345678")


def test_show_names_what_is_reencoded_and_what_it_costs(
    dure: Dure, random_models: dict[str, Path]
) -> None:
    """768 columns are three blocks of Q4_K and 512 are two: over 4 ranks both become Q5_0, and grow."""
    model = random_models["qwen3"]
    text = dure("show", model).stdout
    note = r"re-encodes 6 tensors: attn_output Q4_K to Q5_0, ffn_down Q4_K to Q5_0 \(\+122\.9 kB\)"
    assert re.search(rf"^4 .*{note}$", text, re.MULTILINE), text
    cut = as_json(dure("show", model, "--json"))["cuts"][3]
    families = ("attn_output", "ffn_down")
    assert cut["reencoded"] == {
        f"blk.{i}.{name}.weight": {"from": "Q4_K", "to": "Q5_0"}
        for i in range(3)
        for name in families
    }
    bytes_a_weight = {"Q4_K": 144 / 256, "Q5_0": 22 / 32}
    n_weights = 3 * 256 * (512 + 768)
    grown = n_weights * (bytes_a_weight["Q5_0"] - bytes_a_weight["Q4_K"])
    assert cut["reencoded_extra_bytes"] == grown


def test_show_tells_the_memory_of_a_context_and_of_several(dure: Dure) -> None:
    """What the plan of a start says; the default is one answer of 2,048 tokens, as this model has."""
    cuts = as_json(dure("show", DEMO, "--json"))["cuts"]
    facts = as_json(dure("show", DEMO, "--ctx", 1024, "--parallel", 4, "--json"))
    assert (facts["ctx"], facts["parallel"]) == (1024, 4)
    with open_gguf(DEMO) as gguf:
        memory, _ = whole_memory(gguf, probe().features)
    assert cuts[0]["memory_bytes"] == [memory.total_bytes(2048)]
    assert facts["cuts"][0]["memory_bytes"] == [memory.total_bytes(1024, 4)]
    assert len({sum(c["cuts"][1]["memory_bytes"]) for c in (facts, {"cuts": cuts})}) == 2
    text = dure("show", DEMO, "--ctx", 1024, "--parallel", 4).stdout
    assert "takes here with 4 contexts of 1024 tokens each." in text
    assert "more than the 2048 tokens" in dure("show", DEMO, "--ctx", 4096).stderr
    assert "--parallel 0: give a number" in dure("show", DEMO, "--parallel", 0).stderr


def test_show_says_why_a_cut_is_impossible(dure: Dure, tmp_path: Path) -> None:
    """Over more ranks than query heads there is no cut, and the reason stands in its row."""
    model = tmp_path / "four-heads.gguf"
    write_random_model(model, Shape("qwen3", 1, 64, 4, 2, 32, 64, 320, tied=True), "F16")
    cuts = as_json(dure("show", model, "--json"))["cuts"]
    assert [cut["possible"] for cut in cuts] == [True] * 4 + [False] * 4
    assert "5 ranks are more than the 4 query heads" in cuts[4]["reason"]
    assert re.search(
        r"^5 +cannot be cut +5 ranks are more", dure("show", model).stdout, re.MULTILINE
    )


def test_show_reads_a_split_model_by_any_part(dure: Dure, tmp_path: Path) -> None:
    """A split model named by its last part shows as the whole one does."""
    shape, whole = SHAPES["llama"], tmp_path / "whole.gguf"
    write_random_model(whole, shape, "F16")
    parts = write_split(tmp_path / "split", shape, "F16", 3)
    facts = as_json(dure("show", parts[-1], "--json"))
    assert facts["files"] == [str(part) for part in parts]
    assert facts["cuts"] == as_json(dure("show", whole, "--json"))["cuts"]
    assert "in 3 file(s)" in dure("show", parts[1]).stdout


def test_show_lists_tensors_and_metadata_on_request(dure: Dure) -> None:
    """--tensors has one line for each tensor, --metadata one for each key."""
    text = dure("show", DEMO, "--tensors", "--metadata").stdout
    with open_gguf(DEMO) as gguf:
        lines = text.splitlines()
        for name in (*gguf.tensors, *gguf.metadata):
            assert sum(line.startswith(f"{name} ") for line in lines) == 1, name


def test_names_from_a_file_cannot_write_to_the_terminal(dure: Dure, tmp_path: Path) -> None:
    """Control characters, markup and emoji codes in a model's names are shown as they are."""
    model = tmp_path / "[b] :goat:.gguf"
    arch = "[/b]\n\x1b[31m:goat:"
    write_random_model(model, Shape(arch, 1, 64, 4, 2, 32, 64, 320, tied=True), "F16")
    done = dure("show", model)
    assert (done.returncode, done.stderr) == (0, "")
    assert ESCAPE not in done.stdout
    assert r"architecture  [/b]\n\x1b[31m:goat:" in done.stdout
    run = dure("run", model, "hi", "--ranks", 2)
    assert r"architecture [/b]\n\x1b[31m:goat: has no table" in error_line(run.stderr)
    with dure.terminal("run", model, "hi") as terminal:
        assert "loading [b] :goat:.gguf" in terminal.read_all()


def test_json_can_say_a_file_name_that_is_no_text(dure: Dure, tmp_path: Path) -> None:
    """A name of bytes outside of UTF-8 comes back from --json as Python's file functions take it."""
    model = tmp_path / os.fsdecode(b"bad\xff.gguf")
    model.write_bytes(DEMO.read_bytes())
    done = dure("show", model, "--json", PYTHONIOENCODING="utf-8:strict")
    assert as_json(done)["files"] == [str(model)]


# ---------------------------------------------------------------- cut


def test_cut_dry_run_writes_nothing_and_says_what_cut_then_does(dure: Dure, tmp_path: Path) -> None:
    """--dry-run names the same files and sizes, and makes not even the directory."""
    out = tmp_path / "shards"
    arguments = ("cut", DEMO, "--ranks", 3, "--out", out, "--json")
    dry = as_json(dure(*arguments, "--dry-run"))
    assert not out.exists()
    wet = as_json(dure(*arguments))
    assert (dry["dry_run"], wet["dry_run"]) == (True, False)
    assert dry["shards"] == wet["shards"]
    assert {path.name for path in out.glob("*.gguf")} == {
        Path(shard["path"]).name for shard in wet["shards"]
    }


def test_cut_reuses_what_is_finished_and_mends_what_is_damaged(dure: Dure, tmp_path: Path) -> None:
    """A second run writes nothing; a shard with one changed byte is found and written again."""
    arguments = ("cut", DEMO, "--ranks", 2, "--out", tmp_path)
    assert dure(*arguments).stdout.count("written: ") == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.gguf")}
    assert dure(*arguments).stdout.count("finished, reused: ") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    damaged = sorted(before)[1]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shards = as_json(dure(*arguments, "--json"))["shards"]
    assert [shard["reused"] for shard in shards] == [True, False]
    assert damaged.read_bytes() == whole


def test_cut_shares_give_the_first_rank_more(dure: Dure, tmp_path: Path) -> None:
    """--shares 2,1,1 divides heads, columns and rows by these numbers."""
    arguments = ("--shares", "2,1,1", "--out", tmp_path, "--dry-run")
    shards = as_json(dure("cut", DEMO, *arguments, "--json"))["shards"]
    assert [shard["query_heads"] for shard in shards] == [4, 2, 2]
    assert [shard["feed_forward"] for shard in shards] == [384, 192, 192]
    assert [shard["vocabulary"] for shard in shards] == [1024, 512, 512]
    text = dure("cut", DEMO, *arguments).stdout
    assert re.search(r"^rank 0 .* 4 query heads, 384 feed-forward .* would be written", text)


def test_cut_says_what_it_reencodes(
    dure: Dure, random_models: dict[str, Path], tmp_path: Path
) -> None:
    """Re-encoded tensors are named on stderr, with both types."""
    done = dure("cut", random_models["qwen3"], "--ranks", 4, "--out", tmp_path, "--dry-run")
    assert "blk.0.ffn_down.weight is re-encoded from Q4_K to Q5_0" in done.stderr.splitlines()


# ---------------------------------------------------------------- bench


@pytest.mark.parametrize("ranks", [1, 2])
def test_bench_json_has_its_documented_figures(dure: Dure, ranks: int) -> None:
    """Speeds with their runs, times and bytes per token, and every rank's memory within its bound."""
    arguments = ("-p", 16, "-n", 6, "--repeat", 3, "--threads", 1, "--ranks", ranks, "--json")
    (facts,) = as_json(dure("bench", DEMO, *arguments))["rows"]
    assert (facts["ranks"], facts["threads"]) == (ranks, 1)
    for name, tokens in (("prompt", 16), ("generation", 6)):
        speed = facts[name]["tokens_per_s"]
        assert facts[name]["tokens"] == tokens
        assert len(speed["runs"]) == 3
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert speed["median"] == sorted(speed["runs"])[1]
    token = facts["per_token_ms"]
    assert token["compute"] > 0
    assert token["idle"] > 0
    assert (token["sync"] > 0) == (ranks > 1)
    assert len(facts["peak_memory_bytes"]) == ranks
    for weights, kv, peak in zip(
        *(facts[key] for key in ("weights_bytes", "kv_bytes", "peak_memory_bytes")), strict=True
    ):
        assert weights < peak <= weights + kv + 300e6


@pytest.mark.parametrize(("sync", "bytes_of_32"), [("q8", 34), ("f32", 128)])
def test_bench_counts_the_bytes_that_the_sums_send(dure: Dure, sync: str, bytes_of_32: int) -> None:
    """Two ranks send every partial vector once; rank 1 also reports figures and its best logit."""
    arguments = ("-p", 8, "-n", 4, "--repeat", 1, "--threads", 1, "--ranks", 2, "--sync", sync)
    (facts,) = as_json(dure("bench", DEMO, *arguments, "--json"))["rows"]
    n_layer, n_embd, report = 4, 256, (4 * 8 + 4 + 8) + 8 + 4 + 4
    sums = 2 * n_layer * n_embd * bytes_of_32 / 32
    assert facts["bytes_sent_per_token_by_rank"] == [sums, sums + report]
    assert facts["bytes_sent_per_token"] == sums + report / 2


def test_bench_prints_its_figures(dure: Dure) -> None:
    """The text has both speeds, the times of a token, and each rank's memory."""
    done = dure("bench", DEMO, "-p", 8, "-n", 4, "--repeat", 1, "--threads", 1, "--ranks", 2)
    assert (done.returncode, done.stderr) == (0, "")
    for pattern in (
        r"^ranks 2, threads of each 1, sums in q8$",
        r"^prompt +[\d.]+ tokens/s",
        r"^generation +[\d.]+ tokens/s",
        r"^per token +compute [\d.]+ ms, sync [\d.]+ ms, idle [\d.]+ ms, [\d.]+ kB sent$",
        r"^rank 1 +peak memory [\d.]+ MB \(weights [\d.]+ MB, KV cache [\d.]+ kB\)$",
    ):
        assert re.search(pattern, done.stdout, re.MULTILINE), (pattern, done.stdout)


def test_bench_needs_no_tokenizer(dure: Dure, random_models: dict[str, Path]) -> None:
    """Random weights without a vocabulary are measured."""
    arguments = ("-p", 4, "-n", 2, "--repeat", 1, "--threads", 1, "--json")
    assert as_json(dure("bench", random_models["gpt-oss"], *arguments))["rows"][0]["ranks"] == 1


def test_bench_json_says_of_which_model_and_machine_it_is(dure: Dure) -> None:
    """All that a figure depends on: processor, memory, versions; the model's kind, size and hash."""
    arguments = ("-p", 4, "-n", 2, "--repeat", 1, "-t", 1, "--json")
    facts = as_json(dure("bench", DEMO, *arguments))
    with open_gguf(DEMO) as gguf:
        assert facts["model"]["fingerprint"] == gguf.fingerprint
        assert facts["model"]["parameters"] == sum(t.n_elements for t in gguf.tensors.values())
    assert facts["model"]["architecture"] == "qwen3"
    assert facts["model"]["size_bytes"] == DEMO.stat().st_size
    assert facts["model"]["path"] == str(DEMO)
    machine = facts["machine"]
    assert machine["processor"]
    assert machine["features"]
    assert machine["cores"] > 0
    assert machine["memory_bytes"] > 1e8
    assert platform.release() in machine["os"]
    assert machine["versions"] == {**versions(), "python": platform.python_version()}


def test_bench_measures_every_combination_of_lists(dure: Dure) -> None:
    """A row each, in the order of threads, prompts and generations; the table has the same."""
    arguments = ("-p", "4,8", "-n", "2,3", "-t", "2,1", "--repeat", 1)
    rows = as_json(dure("bench", DEMO, *arguments, "--json"))["rows"]
    measured = [(r["threads"], r["prompt"]["tokens"], r["generation"]["tokens"]) for r in rows]
    assert measured == [*itertools.product((2, 1), (4, 8), (2, 3))]
    lines = dure("bench", DEMO, *arguments).stdout.splitlines()
    found = [match.groups() for line in lines if (match := re.match(ROW, line))]
    assert [tuple(map(int, row)) for row in found] == measured


ROW = r"^ *(\d+) +(\d+) +[\d.]+ \(.*\) +(\d+) +[\d.]+ \(.*\) +[\d.]+ MB$"
