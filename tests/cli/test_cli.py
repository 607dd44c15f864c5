"""What `dure run` and `dure chat` print, return and leave behind; help, version and colours of all."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dure.cli.app import COMMANDS as LISTED
from dure.cli.terminal.lazy_commands import LazyCommands
from tests.support.dure_process import WAIT_S, Dure, as_json, error_line
from tests.support.parrot import tokens_of, write_parrot

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "dure-demo.gguf"
COMMANDS = ["run", "chat", "show", "cut", "bench"]
STORY, ABOUT = "Tell me a story about a goat.", "Who is the story about?"
GREEDY = ("--temp", 0, "--threads", 1)
EXACT = (*GREEDY, "--sync", "f32")
SAID = " one two three four five six seven eight nine ten\n"
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of all tests of this module."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def dure(cache: Path) -> Iterator[Dure]:
    """The program; after every test, none of its processes is left."""
    program = Dure(cache)
    yield program
    assert program.left_behind() == []


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says SAID without end."""
    path = tmp_path_factory.mktemp("parrot") / "parrot.gguf"
    write_parrot(path, DEMO, list(dict.fromkeys(tokens_of(DEMO, SAID))))
    return path


# ---------------------------------------------------------------- run


def test_run_writes_the_answer_to_stdout_and_nothing_to_stderr(dure: Dure) -> None:
    """The text and one line end come on stdout, all else is silent, and the code is 0."""
    done = dure("run", DEMO, "Who is the baker?", *GREEDY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")
    assert len(done.stdout.split()) >= 3


def test_run_reads_the_prompt_from_stdin_where_none_is_named(dure: Dure) -> None:
    """A piped prompt gives the text that the same prompt gives as an argument."""
    named = dure("run", DEMO, "Who is the baker?", *GREEDY)
    piped = dure("run", DEMO, *GREEDY, stdin="Who is the baker?")
    assert piped.stdout == named.stdout
    assert piped.returncode == 0


def test_what_is_piped_in_comes_before_the_prompt(dure: Dure) -> None:
    """As with `cat FILE | dure run MODEL QUESTION`."""
    asked = ("run", DEMO, *GREEDY, "--json")
    piped = "The goat sleeps in the mill.\n"
    both = as_json(dure(*asked, "Where is the goat?", stdin=piped))
    one = as_json(dure(*asked, stdin=f"{piped}\n\nWhere is the goat?"))
    alone = as_json(dure(*asked, "Where is the goat?"))
    assert both["text"] == one["text"]
    assert both["prompt_tokens"] == one["prompt_tokens"] > alone["prompt_tokens"]


def test_a_pipe_that_stays_silent_is_told(dure: Dure) -> None:
    """As one inherited from a script: nobody should wonder what is waited for."""
    words = ["run", DEMO, *GREEDY, "Who is the baker?"]
    run = dure.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdin is not None
    assert run.stderr is not None
    assert b"reading standard input" in run.stderr.readline()
    said, _ = run.communicate(timeout=WAIT_S)
    assert said.decode() == dure(*words).stdout


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("modles", "ls"), ("status", "ps"), ("serv", "serve"), ("download", "pull")],
)
def test_an_unknown_command_gets_the_one_that_is_meant(dure: Dure, typed: str, meant: str) -> None:
    done = dure(typed)
    assert done.returncode == 2
    assert error_line(done.stderr) == (
        f"dure: no such command {typed!r}, did you mean {meant}? (see `dure --help`)"
    )


def test_a_piped_prompt_may_be_no_utf8(dure: Dure) -> None:
    """Bytes that are no text are answered like any prompt."""
    prompt = b"goat \xff \xf4\xb8\xb5\x80"
    environment = {"PYTHONIOENCODING": "utf-8:strict"}
    for command in ("run", "chat"):
        done = dure(command, DEMO, "-t", 1, stdin=prompt, **environment)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("ranks", [1, 2])
def test_run_json_has_the_answer_and_its_figures(dure: Dure, ranks: int) -> None:
    """--json prints one object: text, why it ended, tokens, speeds, times, bytes, memory a rank."""
    facts = as_json(dure("run", DEMO, STORY, *GREEDY, "-n", 8, "--ranks", ranks, "--json"))
    assert (facts["ranks"], facts["tokens"], facts["finish"]) == (ranks, 8, "length")
    assert facts["text"].strip()
    assert facts["prompt_tokens"] > 8
    assert facts["cached_tokens"] == 0
    assert facts["prompt_tokens_per_s"] > 0
    assert facts["tokens_per_s"] > 0
    assert facts["per_token_ms"]["compute"] > 0
    assert (facts["per_token_ms"]["sync"] > 0) == (ranks > 1)
    assert (facts["bytes_sent_per_token"] > 0) == (ranks > 1)
    fewer = as_json(dure("run", DEMO, STORY, *GREEDY, "-n", 4, "--ranks", ranks, "--json"))
    assert fewer["bytes_sent_per_token"] == facts["bytes_sent_per_token"]
    assert len(facts["peak_memory_bytes"]) == ranks
    assert min(facts["peak_memory_bytes"]) > 1e6


def test_run_json_says_stop_where_the_model_ends_and_has_the_streamed_text(dure: Dure) -> None:
    """The text in --json is what is streamed without it, and "stop" is the model's own end."""
    facts = as_json(dure("run", DEMO, "Who is the baker?", *GREEDY, "--json"))
    assert facts["finish"] == "stop"
    assert facts["text"] + "\n" == dure("run", DEMO, "Who is the baker?", *GREEDY).stdout


def test_run_raw_continues_the_text_without_the_chat_template(dure: Dure) -> None:
    """--raw feeds exactly the text's own tokens."""
    facts = as_json(dure("run", DEMO, "Once upon a time", *GREEDY, "--raw", "-n", 4, "--json"))
    assert facts["prompt_tokens"] == len(tokens_of(DEMO, "Once upon a time"))
    chat = as_json(dure("run", DEMO, "Once upon a time", *GREEDY, "-n", 4, "--json"))
    assert chat["prompt_tokens"] > facts["prompt_tokens"]


def test_run_system_puts_a_message_before_the_prompt(dure: Dure) -> None:
    """--system makes the prompt longer by its message."""
    plain = as_json(dure("run", DEMO, "hi", *GREEDY, "-n", 1, "--json"))
    system = "You are a helpful assistant in the village of Solbat."
    longer = as_json(dure("run", DEMO, "hi", *GREEDY, "-n", 1, "--json", "--system", system))
    more = longer["prompt_tokens"] - plain["prompt_tokens"]
    assert more >= len(tokens_of(DEMO, system))


def test_run_seed_repeats_and_other_seeds_do_not(dure: Dure) -> None:
    """The same seed gives the same text; three seeds do not all give one text."""
    texts = [
        dure("run", DEMO, STORY, "--temp", 1, "--seed", seed, "-n", 30, "-t", 1).stdout
        for seed in (1, 1, 2, 3)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


@pytest.mark.parametrize("cut", [("--ranks", 2), ("--shares", "3,2,1")])
def test_run_on_ranks_writes_the_text_of_one_rank(dure: Dure, cut: tuple[Any, ...]) -> None:
    """With float32 sums, greedy text of the demo model is the same however it is cut."""
    assert dure("run", DEMO, STORY, *EXACT, *cut).stdout == dure("run", DEMO, STORY, *EXACT).stdout


def test_run_verbose_adds_figures_on_stderr_only(dure: Dure) -> None:
    """-v leaves stdout as it is and says speeds, compute and sync time and memory on stderr."""
    plain = dure("run", DEMO, STORY, *EXACT, "-n", 5, "--ranks", 2)
    verbose = dure("run", DEMO, STORY, *EXACT, "-n", 5, "--ranks", 2, "--verbose")
    assert verbose.stdout == plain.stdout
    for pattern in (
        r"prompt +\d+ tokens, [\d.]+ tokens/s",
        r"generation +5 tokens, [\d.]+ tokens/s",
        r"compute [\d.]+ ms, sync [\d.]+ ms",
        r"peak memory [\d.]+ MB, [\d.]+ MB",
    ):
        assert re.search(pattern, verbose.stderr), verbose.stderr


def test_run_writes_a_character_of_several_tokens_whole(dure: Dure, tmp_path: Path) -> None:
    """Korean and emoji that the vocabulary has in bytes come out as they should, on 2 ranks too."""
    model, text = tmp_path / "bytes.gguf", "한🎉!"
    tokens = tokens_of(DEMO, text)
    assert len(tokens) > len(text)
    write_parrot(model, DEMO, tokens)
    for ranks in (1, 2):
        done = dure("run", model, "hi", *GREEDY, "-n", 2 * len(tokens), "--ranks", ranks)
        assert done.stdout == 2 * text + "\n"


@pytest.mark.parametrize("ranks", [1, 2])
def test_run_streams(dure: Dure, parrot: Path, ranks: int) -> None:
    """The first token is written before the others are there.

    The pipe has room for six bytes: for one token, and not for an answer that comes all at once.
    """
    reading, writing = os.pipe()
    room = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096) - 6
    os.write(writing, bytes(room))
    process = dure.start("run", parrot, "hi", *GREEDY, "-n", 50, "--ranks", ranks, stdout=writing)
    os.close(writing)
    with open(reading, "rb", buffering=0) as stream:  # noqa: PTH123 - a pipe has no path
        give_up = time.monotonic() + WAIT_S
        while waiting_bytes(reading) == room:
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.01)
        text = b"".join(iter(lambda: stream.read(65536), b""))[room:].decode()
    assert process.wait(WAIT_S) == 0
    assert text == (SAID * 10)[: len(text) - 1] + "\n"
    assert len(text) > 100


def waiting_bytes(pipe: int) -> int:
    """How much lies in a pipe, unread."""
    answer = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_ends_a_run_and_keeps_what_was_written(dure: Dure, parrot: Path, ranks: int) -> None:
    """The answer ends early, with code 130 and a line end.

    The pipe is too small for the whole answer, so the program cannot have finished before Ctrl-C.
    """
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    options = ("-n", 8000, "--ctx", 10000, "--ranks", ranks)
    process = dure.start("run", parrot, "hi", *GREEDY, *options, stdout=writing)
    os.close(writing)
    with open(reading, "rb", buffering=0) as stream:  # noqa: PTH123 - a pipe has no path
        text = stream.read(1)
        process.send_signal(signal.SIGINT)
        text += b"".join(iter(lambda: stream.read(65536), b""))
    assert process.wait(WAIT_S) == 130
    assert text.endswith(b"\n")
    assert text[:4] == b" one"
    assert (SAID * 1000).startswith(text[:-1].decode())
    assert len(text) < len(SAID) * 8000 / len(tokens_of(DEMO, SAID)) / 2


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("typer._click.core", "ls"),  # of the command line
        ("dure.cli.terminal.parameters", "show"),  # of a command
        ("pydantic.version", "serve"),  # of a library that makes its own error of KeyboardInterrupt
    ],
)
def test_ctrl_c_during_imports_is_no_traceback(dure: Dure, module: str, command: str) -> None:
    """It ends the program as it does later, whatever is imported just then."""
    dure.environment["PYTHONPROFILEIMPORTTIME"] = "1"  # a line for each module
    process = dure.start(command, DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stdout is not None
    with process.stderr as stream, process.stdout:
        lines = (line.decode() for line in open(stream.fileno(), "rb", closefd=False))  # noqa: SIM115 - a pipe
        assert any(line.split("|")[-1].strip() == module for line in lines)
        process.send_signal(signal.SIGINT)
        rest = [line for line in lines if not line.startswith("import time:")]
    assert process.wait(WAIT_S) == 130
    assert rest == []
    assert dure.left_behind() == []


def test_ctrl_c_in_a_function_that_c_code_calls_comes_again() -> None:
    """Python writes such a KeyboardInterrupt to stderr and forgets it; the command ends all the same."""
    code = """
import ctypes, os, signal, sys, time
from dure.cli.main import CtrlC

def called():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

ctrl_c = CtrlC()
signal.signal(signal.SIGINT, ctrl_c.raise_it)
sys.unraisablehook = ctrl_c.repeat
try:
    ctypes.CFUNCTYPE(None)(called)()
    time.sleep(600)  # it is not waited for
except KeyboardInterrupt:
    print("ends")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=WAIT_S
    )
    assert (done.stdout, done.stderr) == (b"ends\n", b"")


def test_max_tokens_ends_an_answer_that_has_no_end(dure: Dure, parrot: Path) -> None:
    """Exactly so many tokens come."""
    done = dure("run", parrot, "hi", *GREEDY, "-n", len(tokens_of(DEMO, SAID)))
    assert done.stdout == SAID + "\n"


def await_text(process: subprocess.Popen[bytes]) -> None:
    """Wait until the first text has come; the rest stays in the pipe."""
    assert process.stdout is not None
    assert process.stdout.read(10)


@pytest.mark.parametrize(
    ("signal_number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)],
)
def test_a_signal_ends_every_rank(
    dure: Dure, parrot: Path, signal_number: signal.Signals, code: int
) -> None:
    """Ended by any signal in the middle of an answer, `run --ranks 2` leaves no process."""
    process = dure.start(
        *("run", parrot, "hi", *GREEDY, "-n", 9000, "--ctx", 10000, "--ranks", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process.stdout:
        await_text(process)
        assert len(dure.living()) > 3  # dure, mpiexec, its proxy, two ranks
        process.send_signal(signal_number)
        assert process.stdout.read() is not None
    assert process.wait(WAIT_S) == code
    assert dure.left_behind() == []


def test_a_closed_pipe_ends_the_run_quietly(dure: Dure, parrot: Path) -> None:
    """When nobody reads on, as with `| head -c 10`, the ranks end and stderr stays empty."""
    process = dure.start(
        *("run", parrot, "hi", *GREEDY, "-n", 9000, "--ctx", 10000, "--ranks", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout:
        assert process.stdout.read(10)
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(WAIT_S) == 1


def test_a_full_disk_behind_stdout_is_told_in_one_line(dure: Dure) -> None:
    """Where the output cannot be written, the error says so."""
    with Path("/dev/full").open("wb") as full:
        process = dure.start("show", DEMO, stdout=full, stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        line = error_line(process.stderr.read().decode())
    assert "no space" in line
    assert process.wait(WAIT_S) == 1


# ---------------------------------------------------------------- chat


def test_chat_answers_line_by_line_with_the_history(dure: Dure) -> None:
    """The first answer is that of `run`; a later one knows the earlier turns until /clear."""
    lines = [STORY, ABOUT, "/clear", ABOUT]
    done = dure("chat", DEMO, *EXACT, stdin="\n".join(lines))
    first = dure("run", DEMO, STORY, *EXACT).stdout
    alone = dure("run", DEMO, ABOUT, *EXACT).stdout
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(first)
    assert done.stdout.endswith(alone)
    second = done.stdout.removeprefix(first).removesuffix(alone)
    assert second.strip()
    assert second != alone


def test_chat_ends_at_exit_and_answers_nothing_after_it(dure: Dure, parrot: Path) -> None:
    """/exit ends the conversation, blank lines are no turns."""
    done = dure("chat", parrot, *GREEDY, "-n", 2, stdin="hi\n\n  \n/exit\nhi\n")
    assert (done.returncode, done.stdout) == (0, " one two\n")


def test_chat_runs_on_ranks(dure: Dure) -> None:
    """A conversation on two ranks with float32 sums reads as on one."""
    lines = f"{STORY}\n{ABOUT}\n"
    one = dure("chat", DEMO, *EXACT, stdin=lines)
    two = dure("chat", DEMO, *EXACT, "--ranks", 2, stdin=lines)
    assert two.stdout == one.stdout


def test_chat_refuses_a_turn_that_is_too_long_and_goes_on(dure: Dure, parrot: Path) -> None:
    """A turn longer than the context is told in one line, and the next turn is answered."""
    done = dure(*("chat", parrot, *GREEDY, "--ctx", 256, "-n", 2), stdin=" goat" * 600 + "\nhi\n")
    lines = [line for line in done.stderr.splitlines() if "cut off" not in line]
    assert "--ctx" in error_line("\n".join(lines))
    assert (done.returncode, done.stdout) == (0, " one two\n")


def test_chat_forgets_its_oldest_turns_where_the_context_is_full(dure: Dure, parrot: Path) -> None:
    """A conversation longer than the context goes on, and says what was forgotten."""
    done = dure("chat", parrot, *GREEDY, "--ctx", 256, "-n", 40, stdin="hi\n" * 8)
    assert done.returncode == 0
    assert "the oldest turn was forgotten" in done.stderr
    assert done.stdout.count(" one two") >= 8


@pytest.mark.parametrize("ranks", [1, 2])
def test_on_a_terminal_ctrl_c_stops_the_answer_and_not_the_chat(
    dure: Dure, parrot: Path, ranks: int
) -> None:
    """After Ctrl-C the prompt comes back, the next turn is answered, and Ctrl-D ends with code 0."""
    n = 20000
    options = (*GREEDY, "-n", n, "--ctx", 65536, "--ranks", ranks)
    with dure.terminal("chat", parrot, *options) as terminal:
        terminal.read_until(">>>")
        for _ in range(2):
            terminal.type("hi\n")
            text = terminal.read_until("four")
            terminal.type("\x03")
            text += terminal.read_until(">>>")
            assert len(text) < n
        terminal.await_reading()
        terminal.type("\x03")  # at the prompt it ends nothing either
        terminal.read_until(">>>")
        terminal.type("/clear\n")
        terminal.read_until(">>>")
        terminal.type("\x04")
        assert "Traceback" not in terminal.read_all()
        assert terminal.process.wait(WAIT_S) == 0


def test_on_a_terminal_chat_answers_its_commands_and_keeps_a_history(
    dure: Dure, parrot: Path
) -> None:
    """/help and /clear answer; a paste of two lines is one turn; arrow up brings back the last chat's."""
    prompt, answer = ">>>", " one two\r\n"
    with dure.terminal("chat", parrot, *GREEDY, "-n", 2) as terminal:
        terminal.read_until(prompt)
        terminal.type("/help\n")
        terminal.read_until("/clear    forget the conversation", prompt)
        terminal.type("/clear\n")
        terminal.read_until("(the conversation is forgotten)", prompt)
        terminal.type("\x1b[200~one line\nand another\x1b[201~\n")
        assert terminal.read_until(answer, prompt).count(answer) == 1
        terminal.type("\x04")
        terminal.read_all()
    with dure.terminal("chat", parrot, *GREEDY, "-n", 2) as terminal:
        terminal.read_until(prompt)
        terminal.type("\x1b[A")
        terminal.read_until("and another")
        terminal.type("\n")
        terminal.read_until(answer, prompt)
        terminal.type("\x04")
        assert "Traceback" not in terminal.read_all()


def test_on_a_terminal_a_mistyped_command_does_not_go_to_the_model(
    dure: Dure, parrot: Path
) -> None:
    """The commands are told, with the nearest; a path, or a space before it, makes it a message."""
    prompt, answer = ">>>", " one two\r\n"
    with dure.terminal("chat", parrot, *GREEDY, "-n", 2, COLUMNS="200") as terminal:
        terminal.read_until(prompt)
        for typed, told in {
            "/foo": "(there is no command /foo. There are /clear, /help and /exit;",
            "/claer all": "(there is no command /claer, did you mean /clear? There are",
        }.items():
            terminal.type(f"{typed}\n")
            assert answer not in terminal.read_until(told, prompt)
        for typed in ("/etc/fstab is wrong", " /foo", "/ is full"):
            terminal.type(f"{typed}\n")
            assert "no command" not in terminal.read_until(answer, prompt)
        terminal.type("\x04")
        terminal.read_all()
    assert dure("chat", parrot, *GREEDY, "-n", 2, stdin="/foo\n").stdout == " one two\n"


def test_on_a_terminal_ctrl_c_stops_a_run_with_code_130(dure: Dure, parrot: Path) -> None:
    """Ctrl-C reaches dure alone, which then ends its ranks."""
    options = (*GREEDY, "-n", 20000, "--ctx", 65536, "--ranks", 2)
    with dure.terminal("run", parrot, "hi", *options) as terminal:
        terminal.read_until("four")
        terminal.type("\x03")
        assert "Traceback" not in terminal.read_all()
        assert terminal.process.wait(WAIT_S) == 130


def test_on_a_terminal_run_asks_for_the_prompt(dure: Dure, parrot: Path) -> None:
    """Without a prompt, run says that it waits for one, and reads it up to Ctrl-D."""
    with dure.terminal("run", parrot, *GREEDY, "-n", 2) as terminal:
        terminal.read_until("Ctrl-D")
        terminal.type("hi\n\x04")
        assert " one two" in terminal.read_all()
        assert terminal.process.wait(WAIT_S) == 0


# ---------------------------------------------------------------- all commands


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_explains_every_command_with_an_example(dure: Dure, command: str, option: str) -> None:
    """Help comes on stdout, with the command's options and an example of its use."""
    done = dure(command, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: dure {command} " in " ".join(done.stdout.split())
    assert "--help" in done.stdout


def test_help_names_every_command(dure: Dure) -> None:
    """`dure --help` lists all commands."""
    text = dure("--help").stdout
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)] == []


def test_version_is_that_of_the_installed_package(dure: Dure) -> None:
    """--version prints the package's version."""
    assert dure("--version").stdout == f"dure {importlib.metadata.version('dure')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("show", DEMO),
        ("cut", DEMO, "--ranks", 2, "--dry-run"),
        ("run", DEMO, "hi", *GREEDY, "-n", 2, "-v"),
        ("bench", DEMO, "-p", 2, "-n", 2, "--repeat", 1, "--ranks", 2, "-t", 1),
        ("run", DEMO, "hi", "--ranks", 0),
    ],
)
def test_off_a_terminal_there_are_no_escape_codes(dure: Dure, arguments: tuple[Any, ...]) -> None:
    """What goes into a pipe or a file is plain text."""
    done = dure(*arguments)
    assert done.stdout + done.stderr
    assert ESCAPE not in done.stdout + done.stderr


def test_no_color_is_obeyed_on_a_terminal(dure: Dure) -> None:
    """An error is red on a terminal, and not with NO_COLOR."""
    red = f"{ESCAPE}[31m"
    with dure.terminal("run", DEMO, "hi", "--ranks", 0) as terminal:
        assert red in terminal.read_all()
    with dure.terminal("run", DEMO, "hi", "--ranks", 0, NO_COLOR="1") as terminal:
        text = terminal.read_all()
        assert red not in text
        assert "dure: --ranks 0" in text


def test_the_summaries_in_the_list_of_commands_are_the_commands_own() -> None:
    """The list is shown without importing a command, so it has summaries of its own."""
    commands = LazyCommands(LISTED)
    for name, lazy in LISTED.items():
        first, *_ = (commands[name].help or "").split("\n\n")
        assert " ".join(first.split()) == lazy.summary, name


@pytest.mark.parametrize(
    ("words", "typed", "slow"),
    [
        ("--help", None, ("numpy", "msgspec")),
        ("--version", None, ("numpy", "msgspec", "rich.console")),
        ("", "r", ("numpy", "msgspec", "pydantic")),
        ("pull", "qwen3:", ("numpy", "pydantic")),
        ("run", "--th", ("numpy", "msgspec", "pydantic")),
        ("serve", "models/", ("numpy", "pydantic")),
        ("cluster status", "--", ("numpy", "msgspec", "pydantic")),
    ],
)
def test_help_and_the_tab_key_import_no_command(
    dure: Dure, words: str, typed: str | None, slow: tuple[str, ...]
) -> None:
    """What a command needs is imported when it runs, so that both are quick."""
    pressed = {"_DURE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"dure {words} {typed}"}
    code = f"import sys; sys.argv = ['dure', {words!r}]\nfrom dure.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\n"
    code += f"print([m for m in sys.modules if m.startswith('dure.cli.commands.') or m in {slow}])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**dure.environment, **(pressed if typed is not None else {})},
    )
    shown, _, imported = done.stdout.rpartition("[")
    assert shown
    assert imported == "]\n"
