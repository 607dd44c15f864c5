"""What goes wrong is one line that names the value and the cure; no traceback, no process left.

Every case here is a real one: a broken file, a wrong number, a missing program, a rank that dies.
"""

from __future__ import annotations

import re
import shlex
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dure.cluster.root.membership import Cluster
from dure.engine.compute.gpu import gpu_backends
from dure.hardware.probe import cpus, probe
from tests.support.dure_process import DURE, Dure, error_line
from tests.support.needs_root import needs_root
from tests.support.parrot import tokens_of, write_parrot
from tests.support.random_models import Shape, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
TINY = Shape("qwen3", 1, 64, 4, 2, 32, 64, 2048, n_ctx_train=512, tied=True, qk_norm=True)
HUGE_CONTEXT = 10**9
FAILED, SENSELESS = 1, 2


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program; after every test, none of its processes is left."""
    program = Dure(tmp_path / "cache")
    yield program
    assert program.left_behind() == []


def check_refusal(
    dure: Dure, code: int, words: tuple[str, ...], *arguments: object, **environment: str
) -> str:
    """Run, and require one line on stderr with all `words`, nothing on stdout, and the code."""
    done = dure(*arguments, **environment)
    line = error_line(done.stderr)
    assert done.stdout == ""
    assert done.returncode == code, line
    assert [word for word in words if word not in line] == [], line
    return line


# ---------------------------------------------------------------- files

# What llama.cpp's gguf.h and other formats begin with.
FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("empty", "download")),
    "text": (b"hello there, this is no model", ("not a GGUF file", "hell", "name a .gguf file")),
    "page": (b"<!DOCTYPE html><html></html>", ("web page", "download the file itself")),
    "zip": (b"PK\x03\x04" + bytes(100), ("zip archive", "convert it to GGUF")),
    "safetensors": (struct.pack("<Q", 90) + b'{"a": 1}', ("safetensors", "convert it to GGUF")),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", ("Git LFS", "download the file")),
    "old": (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), ("version 1", "convert the model again")),
    "future": (struct.pack("<4sIQQ", b"GGUF", 9, 0, 0), ("version 9", "version 2 or 3")),
    "many-tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 2**40, 0), (str(2**40), "download")),
    "many-keys": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 9000), ("9000 metadata keys", "download")),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_model_is_named_for_what_it_is(
    dure: Dure, tmp_path: Path, kind: str
) -> None:
    """An empty file, another format, a pointer, a lying count: what it is, and what to do."""
    content, words = FILES[kind]
    path = tmp_path / f"{kind}.gguf"
    path.write_bytes(content)
    check_refusal(dure, FAILED, (path.name, *words), "run", path, "hi")


@pytest.mark.parametrize("command", ["chat", "show", "cut", "bench"])
def test_every_command_refuses_a_file_that_is_no_model(
    dure: Dure, tmp_path: Path, command: str
) -> None:
    """As `run` does, so do the others."""
    path = tmp_path / "text.gguf"
    path.write_bytes(b"hello there")
    options = ("--ranks", 2) if command == "cut" else ()
    check_refusal(dure, FAILED, ("text.gguf", "not a GGUF file"), command, path, *options)


def test_a_missing_file_is_named(dure: Dure, tmp_path: Path) -> None:
    """The whole path is there, to be compared with what was meant."""
    path = tmp_path / "nothing.gguf"
    check_refusal(dure, FAILED, (str(path), "does not exist", "check"), "run", path, "hi")


def test_a_missing_part_of_a_split_model_is_named(dure: Dure, tmp_path: Path) -> None:
    """Of a split model, the part that is not there is told."""
    path = tmp_path / "model-00002-of-00003.gguf"
    check_refusal(dure, FAILED, ("does not exist", "one folder"), "show", path)


def test_a_directory_is_no_model(dure: Dure, tmp_path: Path) -> None:
    """A folder is told to be one."""
    check_refusal(dure, FAILED, (str(tmp_path), "folder", ".gguf"), "run", tmp_path, "hi")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_truncated_file_is_found_before_anything_is_started(
    dure: Dure, tmp_path: Path, ranks: int
) -> None:
    """The first tensor that is not all there is named, with the file's length."""
    path = tmp_path / "short.gguf"
    path.write_bytes(DEMO.read_bytes()[:3_000_000])
    words = ("short.gguf", "blk.", "3000000", "truncated", "download")
    check_refusal(dure, FAILED, words, "run", path, "hi", "--ranks", ranks)


def patched_demo(path: Path, tensor: str, at: int, value: bytes) -> None:
    """A copy of the demo model with bytes changed so far behind a tensor's name in the header."""
    data = bytearray(DEMO.read_bytes())
    place = data.index(tensor.encode()) + len(tensor) + at
    data[place : place + len(value)] = value
    path.write_bytes(data)


def test_a_tensor_outside_of_the_file_is_named(dure: Dure, tmp_path: Path) -> None:
    """A directory entry that points past the end is not believed."""
    path, name = tmp_path / "outside.gguf", "output_norm.weight"
    patched_demo(path, name, 4 + 8 + 4, struct.pack("<Q", 2**40))
    check_refusal(dure, FAILED, ("outside.gguf", name, "download"), "run", path, "hi")


def test_a_tensor_of_an_unknown_name_forbids_the_cut_and_is_named(
    dure: Dure, tmp_path: Path
) -> None:
    """What the table does not know is not cut by guess."""
    path, name = tmp_path / "strange.gguf", "blk.0.ffn_norm.weight"
    patched_demo(path, name, -len(name), b"blk.0.ffn_nurm.weight")
    words = ("blk.0.ffn_nurm.weight", "qwen3", "one rank")
    check_refusal(dure, FAILED, words, "run", path, "hi", "--ranks", 2)
    check_refusal(dure, FAILED, words, "cut", path, "--ranks", 2, "--out", tmp_path / "out")


def test_an_unknown_architecture_is_named_on_one_rank_and_on_two(
    dure: Dure, tmp_path: Path
) -> None:
    """llama.cpp's refusal and the missing table of cuts are both one line."""
    path = tmp_path / "potato.gguf"
    write_random_model(path, replace(TINY, arch="potato"), "F16", vocab=DEMO)
    words = ("potato.gguf", "'potato'", "use a model that llama.cpp knows")
    check_refusal(dure, FAILED, words, "run", path, "hi", "--ctx", 256)
    words = ("potato", "llama, qwen2", "run it on one rank")
    check_refusal(dure, FAILED, words, "run", path, "hi", "--ranks", 2)


def test_a_model_without_tokenizer_says_so(dure: Dure, tmp_path: Path) -> None:
    """Random weights, or a shard, cannot be talked with."""
    path = tmp_path / "mute.gguf"
    write_random_model(path, TINY, "F16")
    words = ("mute.gguf", "no tokenizer", "dure bench")
    for command in (("run", path, "hi"), ("run", path, "hi", "--ranks", 2), ("chat", path)):
        check_refusal(dure, FAILED, words, *command)


def test_a_shard_is_no_model_to_run(dure: Dure, tmp_path: Path) -> None:
    """Naming one of the files that `cut` wrote is told, with the cure."""
    assert dure("cut", DEMO, "--ranks", 2, "--out", tmp_path).returncode == 0
    shard = next(tmp_path.glob("*rank1of2*.gguf"))
    words = (shard.name, "is it a shard", "name the whole model")
    check_refusal(dure, FAILED, words, "run", shard, "hi")


def test_chat_needs_a_chat_template(dure: Dure, tmp_path: Path) -> None:
    """Without one, the cure is to give it one, or `run --raw`; --system says the same."""
    path, template = tmp_path / "plain.gguf", tmp_path / "chat.jinja"
    write_parrot(path, DEMO, tokens_of(DEMO, " one two"), template="")
    words = ("plain.gguf has no chat template", "--chat-template FILE", "--raw")
    check_refusal(dure, SENSELESS, words, "chat", path)
    words = ("--system needs a chat template", "plain.gguf has none", "--chat-template FILE")
    system = ("--system", "Be kind.")
    check_refusal(dure, SENSELESS, words, "run", path, "hi", *system)
    raw = ("--system needs a chat template", "leave out --raw")
    check_refusal(dure, SENSELESS, raw, "run", path, "hi", *system, "--raw")
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    said = (*("--chat-template", template), *system, "-n", 2, "-t", 1)
    for command, prompt in (("run", ("hi",)), ("chat", ())):
        done = dure(command, path, *prompt, *said, stdin="" if prompt else "hi\n")
        assert (done.returncode, done.stdout) == (0, " one two\n"), done.stderr
        assert "no chat template" not in done.stderr


def test_a_prompt_that_is_continued_for_want_of_a_template_is_told(
    dure: Dure, tmp_path: Path
) -> None:
    """Unless --raw says that it is meant."""
    path = tmp_path / "plain.gguf"
    write_parrot(path, DEMO, tokens_of(DEMO, " one two"), template="")
    told = dure("run", path, "hi", "-n", 2, "-t", 1)
    meant = dure("run", path, "hi", "-n", 2, "-t", 1, "--raw")
    assert told.stdout == meant.stdout == " one two\n"
    assert "plain.gguf has no chat template, so the prompt is continued" in told.stderr
    assert "--chat-template FILE" in told.stderr
    assert meant.stderr == ""


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{% if %}", "is damaged"),
        ("{{ raise_exception('no users') }}", "refuses"),
        ("{{ 1 / 0 }}", "refuses"),
        ("{{ a.b.c }}", "refuses"),
    ],
)
def test_a_template_that_fails_is_told(
    dure: Dure, tmp_path: Path, template: str, what: str
) -> None:
    """A template is a program from the file: whatever it raises is one line."""
    path = tmp_path / "broken.gguf"
    write_parrot(path, DEMO, [5, 6], template=template)
    words = ("chat template of broken.gguf", what)
    check_refusal(dure, SENSELESS, words, "run", path, "hi")


# ---------------------------------------------------------------- numbers

NUMBERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "--ranks 0": (SENSELESS, ("--ranks 0", "from 1")),
    "--ranks -1": (SENSELESS, ("--ranks -1", "from 1")),
    "--ranks 9": (FAILED, ("9 ranks", "8 query heads", "at most 8 ranks")),
    "--ranks 1000000000": (SENSELESS, ("--ranks 1000000000", "from 1 to")),
    "--shares a,b": (SENSELESS, ("--shares a,b", "as in 3,2")),
    "--shares 3,": (SENSELESS, ("--shares 3,", "as in 3,2")),
    "--shares 3,-1": (SENSELESS, ("--shares 3,-1", "above 0", "as in 3,2")),
    "--shares 0,1": (SENSELESS, ("--shares 0,1", "above 0", "as in 3,2")),
    "--shares -1": (SENSELESS, ("--shares -1", "above 0", "as in 3,2")),
    "--shares nan,1": (SENSELESS, ("--shares nan,1", "as in 3,2")),
    "--shares 1e308,1e308": (SENSELESS, ("--shares 1e308,1e308", "as in 3,2")),
    "--shares 3,2 --ranks 3": (SENSELESS, ("--shares 3,2", "2 ranks", "--ranks says 3")),
    "--ctx 4096": (SENSELESS, ("--ctx 4096", "2048", "at most --ctx 2048")),
    "--ctx 0": (SENSELESS, ("--ctx 0", "above 0")),
    "--ctx -5": (SENSELESS, ("--ctx -5", "above 0")),
    "--threads 0": (SENSELESS, ("--threads 0", "from 1")),
    "--threads 100000": (SENSELESS, ("--threads 100000", "to 512")),
    "--temp -1": (SENSELESS, ("--temp -1", "give a number")),
    "--temp nan": (SENSELESS, ("--temp nan", "give a number")),
    "--temp inf": (SENSELESS, ("--temp inf", "give a number")),
    "--top-p 2": (SENSELESS, ("--top-p 2", "give a number from 0 to 1")),
    "--top-k -1": (SENSELESS, ("--top-k -1", "give a number")),
    "--min-p 1.5": (SENSELESS, ("--min-p 1.5", "give a number from 0 to 1")),
    "--seed -1": (SENSELESS, ("--seed -1", "give a number")),
    "--max-tokens 0": (SENSELESS, ("--max-tokens 0", "above 0")),
    "--gpu-layers most": (SENSELESS, ("--gpu-layers most", "or auto")),
    "--gpu-layers -1": (SENSELESS, ("--gpu-layers -1", "or auto")),
}


@pytest.mark.parametrize("options", NUMBERS)
def test_a_number_that_makes_no_sense_is_named_with_what_would(dure: Dure, options: str) -> None:
    """The option, its value and what is possible stand in the line; the code tells whose fault."""
    code, words = NUMBERS[options]
    check_refusal(dure, code, words, "run", DEMO, "hi", *options.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-p 0", ("-p 0", "above 0")),
        ("-n 0", ("-n 0", "above 0")),
        ("--repeat 0", ("--repeat 0", "above 0")),
        ("-p 8,many", ("-p 8,many", "list as in 128,512")),
        ("-t 1,0", ("--threads 1,0", "above 0")),
        ("-p 4,8 --trace t.json", ("--trace is of one measurement",)),
        ("-p 512 --ctx 256", ("--ctx 256", "the 512 tokens", "smaller -d, -p")),
        ("-d 1 -p 512 --ctx 512", ("--ctx 512", "the 513 tokens")),
        ("-d -1", ("-d -1", "0 or a number above")),
        ("-p 4096", ("-p 4096", "2048 tokens", "use fewer")),
        ("--ctx 0", ("--ctx 0",)),
    ],
)
def test_bench_refuses_numbers_that_make_no_sense(
    dure: Dure, options: str, words: tuple[str, ...]
) -> None:
    """What bench cannot measure is told before it starts."""
    check_refusal(dure, SENSELESS, words, "bench", DEMO, *options.split())


def test_one_rank_is_no_cut(dure: Dure, tmp_path: Path) -> None:
    """`cut` without ranks says what it needs."""
    check_refusal(dure, SENSELESS, ("--ranks 2", "--shares"), "cut", DEMO, "--out", tmp_path)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (("'nonsense'", "see `dure --help`"), ("nonsense",)),
        (("missing argument 'model'", "see `dure run --help`"), ("run",)),
        (
            ("--ranks two: give a whole number", "see `dure run --help`"),
            ("run", DEMO, "hi", "--ranks", "two"),
        ),
        (("--temp abc: give a number", "see `dure run"), ("run", DEMO, "hi", "--temp", "abc")),
        (("--sync q7: give one of q8, f32 (",), ("run", DEMO, "hi", "--sync", "q7")),
        (("--colour", "see `dure show --help`"), ("show", DEMO, "--colour")),
        (("'nonsense'", "see `dure cache --help`"), ("cache", "nonsense")),
    ],
)
def test_what_no_command_takes_is_a_usage_error(
    dure: Dure, words: tuple[str, ...], arguments: tuple[Any, ...]
) -> None:
    """Unknown commands and options, and words for numbers, are one line that names the help."""
    check_refusal(dure, SENSELESS, words, *arguments)


@pytest.mark.parametrize("prompt", ["Hello", "What's up, goat?"])
def test_a_prompt_that_stands_for_the_model_is_told_where_it_goes(dure: Dure, prompt: str) -> None:
    """The line ends in a command that can be typed; a name that is nearly one gets the right one."""
    words = ("if it is the prompt", f"`dure run qwen3:0.6b {shlex.quote(prompt)}`")
    check_refusal(dure, SENSELESS, words, "run", prompt)
    assert "prompt" not in check_refusal(dure, SENSELESS, ("qwen3:4b",), "run", "qwen3:5b")
    assert "prompt" not in check_refusal(dure, SENSELESS, ("Hello",), "run", "Hello", "there")


@pytest.mark.parametrize("arguments", [(), ("cache",)])
def test_no_command_shows_the_help(dure: Dure, arguments: tuple[str, ...]) -> None:
    """Without a command, there is nothing to complain of."""
    done = dure(*arguments)
    assert done.returncode == SENSELESS
    assert "Usage:" in done.stdout
    assert done.stderr == ""


def test_a_chat_template_that_cannot_be_read_is_named(dure: Dure, tmp_path: Path) -> None:
    """A file that is not there, and one that is no text."""
    words = ("--chat-template", "nothing.jinja", "No such file")
    option = ("--chat-template", tmp_path / "nothing.jinja")
    assert "Errno" not in check_refusal(dure, FAILED, words, "serve", DEMO, *option)
    words = ("--chat-template", DEMO.name, "no text")
    check_refusal(dure, SENSELESS, words, "serve", DEMO, "--chat-template", DEMO)


def test_a_root_without_a_cluster_is_told_how_to_make_one(dure: Dure, tmp_path: Path) -> None:
    """`cluster status` on a machine where there is none."""
    words = (str(tmp_path), "no cluster", "dure cluster init")
    line = check_refusal(
        dure, FAILED, words, "cluster", "status", DURE_CLUSTER_DIR=str(tmp_path / "cluster")
    )
    assert "Errno" not in line


def test_more_threads_than_processors_are_warned_of(dure: Dure) -> None:
    """It runs, but slower: the number that is faster is told."""
    done = dure("run", DEMO, "hi", "-n", 1, "--temp", 0, "--threads", len(cpus()) + 1)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert f"--threads {probe().cores} is faster" in line


@pytest.mark.skipif(bool(gpu_backends()), reason="llama.cpp was built for a GPU")
@pytest.mark.parametrize("command", ["run", "serve", "bench --ranks 2"])
def test_layers_on_a_gpu_that_llama_cpp_was_not_built_for_are_refused_with_the_build_command(
    dure: Dure, command: str
) -> None:
    """Before anything is loaded; 0 and auto need no GPU."""
    name, *options = command.split()
    prompt = ("hi",) if name == "run" else ()
    words = ("--gpu-layers 4", "without Vulkan and CUDA", "CMAKE_ARGS=-DGGML_VULKAN=on pip install")
    check_refusal(dure, FAILED, words, name, DEMO, *prompt, *options, "--gpu-layers", 4)


@pytest.mark.parametrize("layers", ["0", "auto"])
def test_no_layers_on_a_gpu_are_possible_everywhere(dure: Dure, layers: str) -> None:
    done = dure("run", DEMO, "hi", "-n", 1, "--threads", 1, "--gpu-layers", layers)
    assert done.returncode == 0, done.stderr
    assert not done.stderr or gpu_backends()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("command", ["run", "bench"])
def test_a_context_that_does_not_fit_the_memory_proposes_one(
    dure: Dure, tmp_path: Path, command: str, ranks: int
) -> None:
    """Terabytes of KV cache are refused before anything is allocated, with the largest that fits."""
    path = tmp_path / "long.gguf"
    shape = replace(TINY, n_head=8, n_head_kv=8, head_dim=512, n_ctx_train=HUGE_CONTEXT)
    write_random_model(path, shape, "F16", vocab=DEMO)
    prompt = ("hi",) if command == "run" else ()
    words = (f"context of {HUGE_CONTEXT}", "GB are free")
    options = ("--ctx", HUGE_CONTEXT, "--ranks", ranks)
    line = check_refusal(dure, FAILED, words, command, path, *prompt, *options)
    proposed = re.search(r"use --ctx (\d+) or less", line)
    assert proposed
    assert 0 < int(proposed[1]) < HUGE_CONTEXT


@pytest.mark.parametrize("prompt", ["", "  \n "])
def test_an_empty_prompt_is_refused(dure: Dure, prompt: str) -> None:
    """An empty argument and an empty pipe are told alike."""
    check_refusal(dure, SENSELESS, ("prompt is empty", "pipe it in"), "run", DEMO, prompt)
    assert "prompt is empty" in error_line(dure("run", DEMO, stdin=prompt).stderr)


def test_a_closed_standard_input_is_an_empty_prompt(dure: Dure) -> None:
    """A shell's `<&-` leaves no standard input at all."""
    command = ["sh", "-c", '"$@" <&-', "sh", *DURE, "run", str(DEMO)]
    done = subprocess.run(
        command, env=dure.environment, capture_output=True, text=True, check=False
    )
    assert "prompt is empty" in error_line(done.stderr)
    assert done.returncode == SENSELESS


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_prompt_longer_than_the_context_is_refused(dure: Dure, ranks: int) -> None:
    """Both lengths are told, and both cures."""
    words = ("tokens", "256", "larger --ctx", "shorten it")
    line = check_refusal(
        dure, SENSELESS, words, "run", DEMO, "goat " * 400, "--ctx", 256, "--ranks", ranks
    )
    told = re.search(r"too long: (\d+) tokens", line)
    assert told
    assert int(told[1]) > 400


# ---------------------------------------------------------------- the surroundings


def test_a_missing_mpiexec_is_told_with_the_package_that_brings_it(dure: Dure) -> None:
    """Where mpiexec is not there, the cure is pip or one rank."""
    words = ("DURE_MPIEXEC=/nonexistent", "pip install mpich", "--ranks 1")
    options = ("run", DEMO, "hi", "--ranks", 2)
    check_refusal(dure, FAILED, words, *options, DURE_MPIEXEC="/nonexistent")


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [("nosuchprogram -c", ("nosuchprogram", "no program")), ("env 'A=1", ("quotation",))],
)
def test_a_rank_wrapper_that_cannot_be_started_is_told(
    dure: Dure, wrapper: str, words: tuple[str, ...]
) -> None:
    """What stands in DURE_RANK_WRAPPER is checked before ranks are started."""
    options = ("run", DEMO, "hi", "--ranks", 2)
    words = ("DURE_RANK_WRAPPER", "unset it", *words)
    check_refusal(dure, SENSELESS, words, *options, DURE_RANK_WRAPPER=wrapper)


@pytest.mark.parametrize("seconds", ["soon", "0", "-3", "nan", "inf"])
def test_a_step_timeout_that_is_no_time_is_told(dure: Dure, seconds: str) -> None:
    """DURE_STEP_TIMEOUT is checked before ranks are started."""
    words = ("DURE_STEP_TIMEOUT", repr(seconds), "as in 30")
    options = ("run", DEMO, "hi", "--ranks", 2)
    check_refusal(dure, SENSELESS, words, *options, DURE_STEP_TIMEOUT=seconds)


def test_a_cache_that_cannot_be_written_is_told(dure: Dure, tmp_path: Path) -> None:
    """A file where the directory should be, for the cache and for --out."""
    file = tmp_path / "file"
    file.write_text("in the way")
    options = ("run", DEMO, "hi", "--ranks", 2)
    words = (str(file), "cannot write shards", "DURE_CACHE")
    check_refusal(dure, FAILED, words, *options, DURE_CACHE=str(file / "cache"))
    words = (str(file), "cannot write shards", "--out")
    check_refusal(dure, FAILED, words, "cut", DEMO, "--ranks", 2, "--out", file)


def test_a_temporary_directory_with_too_long_a_name_is_told(dure: Dure, tmp_path: Path) -> None:
    """A socket's path has about 100 bytes; where TMPDIR leaves too few, that is said."""
    directory = tmp_path / ("x" * 110)
    directory.mkdir()
    options = ("run", DEMO, "hi", "--ranks", 2)
    check_refusal(dure, FAILED, ("too long", "TMPDIR"), *options, TMPDIR=str(directory))
    assert list(directory.iterdir()) == []


# ---------------------------------------------------------------- ranks that die


def wrapper(tmp_path: Path, what: str) -> str:
    """A DURE_RANK_WRAPPER with which rank 1 does `what` instead of living; others go on."""
    script = tmp_path / "wrapper.sh"
    script.write_text(f'#!/bin/sh\nrank=$1; shift\n[ "$rank" != 1 ] || {what}\nexec "$@"\n')
    script.chmod(0o755)
    return f"{script} {{rank}}"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("kill -9 $$", ("rank 1 was killed", "signal 9", "smaller --ctx")),
        ("exit 7", ("rank 1 died", "exit code 7", "start again")),
        ('exec "$1" -c "import os; os.abort()"', ("rank 1 died", "signal 6", "start again")),
        (
            'exec "$1" -m dure.engine.ranks.rank /nonexistent',
            ("rank 1 died", "FileNotFoundError", "start again"),
        ),
    ],
)
def test_a_rank_that_dies_while_starting_is_told(
    dure: Dure, tmp_path: Path, what: str, words: tuple[str, ...]
) -> None:
    """However it dies, the others end with it and the line says how."""
    options = ("run", DEMO, "hi", "--ranks", 3)
    check_refusal(dure, FAILED, words, *options, DURE_RANK_WRAPPER=wrapper(tmp_path, what))


def test_a_rank_that_is_killed_in_the_middle_is_told_on_its_own_line(
    dure: Dure, tmp_path: Path
) -> None:
    """Killed some time after its start, rank 1 takes the run with it; the text so far is ended."""
    model = tmp_path / "parrot.gguf"
    write_parrot(model, DEMO, [5, 6])
    kill = wrapper(tmp_path, "(sleep 2; kill -9 $$) >/dev/null 2>&1 &")
    options = ("-n", 60000, "--ctx", 65536, "--ranks", 2, "--threads", 1)
    done = dure("run", model, "hi", *options, DURE_RANK_WRAPPER=kill)
    assert "rank 1 was killed" in error_line(done.stderr)
    assert done.returncode == FAILED
    assert done.stdout[-1:] in ("\n", "")


def test_a_damaged_shard_is_named_by_its_rank_and_mended_by_deleting_it(
    dure: Dure, tmp_path: Path
) -> None:
    """The line names the file to delete; without it, the shard is cut again and the answer comes."""
    options = ("run", DEMO, "hi", "--ranks", 2, "--temp", 0, "--sync", "f32", "-n", 4)
    whole = dure(*options)
    shard = next((tmp_path / "cache").rglob("*rank1of2*.gguf"))
    data = bytearray(shard.read_bytes())
    data[24:4000] = b"\xff" * (4000 - 24)
    shard.write_bytes(data)
    check_refusal(dure, FAILED, ("rank 1", f"delete {shard}", "cut again"), *options)
    shard.unlink()
    assert dure(*options).stdout == whole.stdout
    assert whole.returncode == 0


def test_a_truncated_shard_is_written_again(dure: Dure, tmp_path: Path) -> None:
    """A shard of the wrong size is no finished shard."""
    options = ("run", DEMO, "hi", "--ranks", 2, "--temp", 0, "--sync", "f32", "-n", 4)
    whole = dure(*options)
    shard = next((tmp_path / "cache").rglob("*rank1of2*.gguf"))
    data = shard.read_bytes()
    shard.write_bytes(data[:1000])
    assert dure(*options).stdout == whole.stdout
    assert shard.read_bytes() == data


# ---------------------------------------------------------------- what the system refuses


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A cluster's directory that nobody can write, as on a disk that is mounted for reading."""
    directory = tmp_path / "cluster"
    Cluster.create(directory, "home")
    for words in (["--bind", directory, directory], ["-o", "remount,ro,bind", directory]):
        subprocess.run(["mount", *map(str, words)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@needs_root
def test_what_cannot_be_written_is_one_line_with_the_cure(dure: Dure, read_only: Path) -> None:
    """Whatever the command was about to do there; and nothing has changed."""
    for command in (["dissolve", "--yes"], ["invite"], ["remove", "pi-1"]):
        done = dure("cluster", *command, DURE_CLUSTER_DIR=str(read_only))
        line = error_line(done.stderr)
        assert f"{read_only}/" in line, command
        assert "read-only file system: make that disk writable, or name another place" in line
    assert Cluster(read_only).name == "home"


def test_a_path_that_cannot_be_is_one_line_with_the_cure(dure: Dure, tmp_path: Path) -> None:
    """A file where a directory should be."""
    (tmp_path / "file").touch()
    line = error_line(dure("cluster", "init", DURE_CLUSTER_DIR=str(tmp_path / "file" / "x")).stderr)
    assert f"{tmp_path}/file" in line
    assert "not a directory: name another place" in line
