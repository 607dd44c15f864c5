"""The engine as a process: killed with `kill -9` at any moment, the answers come out as if it had lived.

Real workers and ranks. The parrot's logits are exact in every batch, so that random choice can be
compared; the demo model shows the same of a real one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from dure.deploy.options import RunOptions
from dure.engine.wire import Wire
from dure.errors import (
    BusyError,
    ContextError,
    EngineError,
    ModelError,
    NotReadyError,
    ResourceError,
    UsageError,
)
from dure.generate.request import Done, Failed, Grammar, Request, Sampling, Token
from dure.model.vocabulary import Vocabulary
from dure.worker.protocol import EngineOptions
from dure.worker.supervisor import EngineSupervisor
from tests.support.conversations import conversations
from tests.support.engine_loops import DEMO, GREEDY, WILD
from tests.support.engine_loops import QUESTIONS as SIX_QUESTIONS
from tests.support.parrot import write_parrot

SHARED = "/dev/shm/"  # noqa: S108  # looked at, not written
END_S = 20.0  # within which all processes must be gone
HANG_S = 60.0  # a hang is told by this; nothing is measured with it
SAYS = [*range(300, 340)]
QUESTIONS = [*SIX_QUESTIONS, "Who is Mina?", "Tell me a story about a bell."]


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parrot") / "parrot.gguf"
    write_parrot(path, DEMO, SAYS)
    return path


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Files of a test lie below its own directory, by which its processes are found; none is left.

    Its path is short: a socket's may have 107 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="own-") as name:
        directory = Path(name)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setenv("DURE_CACHE", str(tmp_path / "cache"))
        yield directory
        assert_none_left(directory)
        assert [path for path in directory.iterdir() if path.name.startswith("dure")] == []


def processes(directory: Path) -> list[psutil.Process]:
    """Everything that was started for a directory: workers, mpiexec, ranks."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(directory) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def assert_none_left(directory: Path) -> None:
    give_up = time.monotonic() + END_S
    while left := processes(directory):
        assert time.monotonic() < give_up, [p.cmdline() for p in left]
        time.sleep(0.05)


def rank_1(directory: Path) -> int:
    """The process id of the second rank."""
    ranks = [p for p in processes(directory) if "dure.engine.ranks.rank" in p.cmdline()[2:3]]
    pids: dict[str, int] = {p.environ()["PMI_RANK"]: p.pid for p in ranks}
    return pids["1"]


def options_of(model: Path, **more: Any) -> EngineOptions:
    given = {"threads": 1, "ctx": 512, "n_sequences": 4, **more}
    run = {name: given.pop(name) for name in RunOptions.__struct_fields__ if name in given}
    return EngineOptions(model=str(model), run=RunOptions(**run), **given)


@asynccontextmanager
async def engine(options: EngineOptions, **more: Any) -> AsyncIterator[EngineSupervisor]:
    """An engine that is ready, closed in the end."""
    client = EngineSupervisor(options, **more)
    client.start()
    try:
        await client.ready()
        yield client
    finally:
        await client.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(work(), HANG_S)

    asyncio.run(within())


class Stream:
    """A request's events, read by a task of its own."""

    def __init__(self, client: EngineSupervisor, request: Request) -> None:
        self.answer = client.submit(request)
        self.tokens: list[int] = []
        self.end: Any = None
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.answer:
            assert self.end is None
            if isinstance(event, Token):
                self.tokens.append(event.token)
            elif isinstance(event, Done | Failed):
                self.end = event

    async def has(self, n: int) -> None:
        """Wait for n tokens."""
        while len(self.tokens) < n:
            assert self.end is None, self.end
            await asyncio.sleep(0.001)


async def texts(client: EngineSupervisor, requests: list[Request]) -> list[tuple[list[int], str]]:
    """The tokens and the ends of some answers that run together."""
    streams = [Stream(client, request) for request in requests]
    for stream in streams:
        await stream.task
        assert isinstance(stream.end, Done), stream.end
    return [(stream.tokens, stream.end.reason) for stream in streams]


def kill(client: EngineSupervisor) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


# ---------------------------------------------------------------- killed


def eight_kinds() -> list[Request]:
    """Greedy, seeded, with penalties, and with grammars: two of each."""
    penalties = msgspec.structs.replace(
        WILD, repeat_penalty=1.5, presence_penalty=0.5, dry_multiplier=0.8, logit_bias={3: 2.0}
    )
    grammar = Grammar(r"root ::= [^\n]+")
    kinds: list[dict[str, Any]] = [
        {"sampling": GREEDY},
        {"sampling": WILD},
        {"sampling": penalties},
        {"sampling": WILD, "grammar": grammar},
    ]
    return [
        Request(id=f"r{i}", prompt=[7, 8, 9 + i], max_tokens=150, **kinds[i % 4]) for i in range(8)
    ]


def killed_in_the_middle(
    model: Path, requests: list[Request], victim: Callable[[EngineSupervisor], int | None]
) -> None:
    async def work() -> None:
        async with engine(options_of(model)) as client:
            await compare(client, requests, victim)

    run(work)


async def compare(
    client: EngineSupervisor,
    requests: list[Request],
    victim: Callable[[EngineSupervisor], int | None],
) -> None:
    """All answers undisturbed, and then with a process killed in the middle: the same."""
    undisturbed = await texts(client, requests)
    streams = [Stream(client, request) for request in requests]
    await streams[0].has(10)
    pid = victim(client)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for stream in streams:
        await stream.task
        assert isinstance(stream.end, Done), stream.end
    assert client.restarts == 1
    assert [(s.tokens, s.end.reason) for s in streams] == undisturbed
    assert [s.end.timings.tokens for s in streams] == [len(s.tokens) for s in streams]


def test_eight_streams_of_every_kind_survive_a_kill(parrot: Path) -> None:
    """With seeds, penalties and grammars: all eight complete, equal to the undisturbed run."""
    killed_in_the_middle(parrot, eight_kinds(), lambda client: client.pid)


def test_eight_greedy_streams_of_a_real_model_survive_a_kill(vocabulary: Vocabulary) -> None:
    """On the demo model: no token lost, repeated or changed."""
    requests = [
        Request(
            id=q,
            prompt=conversations(vocabulary).turn([{"role": "user", "content": q}]).prompt,
            sampling=GREEDY,
            max_tokens=60,
            ignore_eos=True,
        )
        for q in QUESTIONS
    ]
    killed_in_the_middle(DEMO, requests, lambda client: client.pid)


def test_a_killed_rank_is_as_good_as_a_killed_engine(parrot: Path, own_files: Path) -> None:
    """Of two ranks one dies; the engine is started again, and the answers go on."""

    async def work() -> None:
        async with engine(options_of(parrot, ranks=2, wire=Wire.F32)) as client:
            assert client.info.n_ranks == 2
            await compare(client, eight_kinds(), lambda _: rank_1(own_files))

    run(work)


def test_an_engine_killed_while_it_starts_again_is_started_once_more(parrot: Path) -> None:
    """Three deaths in a row, two of them while loading: the answer is complete."""

    async def work() -> None:
        async with engine(options_of(parrot)) as client:
            request = Request(id="r", prompt=[7], sampling=GREEDY, max_tokens=100)
            stream = Stream(client, request)
            await stream.has(5)
            for _ in range(2):
                pid = client.pid
                kill(client)
                await until(lambda pid=pid: client.pid not in (None, pid))  # type: ignore[misc]
                assert client.state == "restarting"
            kill(client)
            await stream.task
            assert stream.tokens == (SAYS * 3)[:100]
            assert client.restarts == 3

    run(work)


def test_a_request_that_was_there_at_three_deaths_is_given_up(parrot: Path) -> None:
    """It fails with the reason, and the engine lives for the next."""

    async def work() -> None:
        async with engine(options_of(parrot, ctx=4096)) as client:
            stream = Stream(client, Request(id="r", prompt=[7], sampling=GREEDY, ignore_eos=True))
            for deaths in range(1, 4):
                await stream.has(len(stream.tokens) + 1)
                kill(client)
                await until(lambda deaths=deaths: client.restarts == deaths)  # type: ignore[misc]
            await stream.task
            assert isinstance(stream.end, Failed)
            assert stream.end.error.kind == "EngineError"
            assert "died 3 times" in stream.end.error.message
            assert "signal 9" in stream.end.error.message
            after = Request(id="after", prompt=[7], sampling=GREEDY, max_tokens=5)
            assert await texts(client, [after]) == [(SAYS[:5], "length")]

    run(work)


def test_a_request_that_kills_the_engine_before_it_runs_is_given_up_too(parrot: Path) -> None:
    """A regular expression that llama.cpp aborts at: the engine does not start for ever and ever."""

    async def work() -> None:
        async with engine(options_of(parrot)) as client:
            poison = Grammar('root ::= "a"', triggers=("(",))
            stream = Stream(client, Request(id="r", prompt=[7], sampling=GREEDY, grammar=poison))
            await stream.task
            assert isinstance(stream.end, Failed)
            after = Request(id="after", prompt=[7], sampling=GREEDY, max_tokens=5)
            assert await texts(client, [after]) == [(SAYS[:5], "length")]

    run(work)


def test_what_was_stored_outlives_a_killed_engine(parrot: Path, tmp_path: Path) -> None:
    """The prompt that was pushed out of the only sequence is still cached for the next engine."""

    async def work() -> None:
        options = options_of(
            parrot, n_sequences=1, store=str(tmp_path / "store"), store_bytes=10_000_000
        )
        async with engine(options) as client:
            for i, first in enumerate((7, 8)):
                await texts(client, [talk(f"r{i}", first)])
            kill(client)
            await until(lambda: client.restarts == 1 and client.state == "ready")
            stream = Stream(client, talk("again", 7))
            await stream.task
            assert stream.end.timings.cached_tokens == 199

    run(work)


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_answer_goes_on_from_what_was_stored_while_it_ran(
    parrot: Path, tmp_path: Path, own_files: Path, ranks: int
) -> None:
    """Killed in the middle: prompt and answer so far are read, not computed again."""
    options = options_of(
        parrot,
        ranks=ranks,
        wire=Wire.F32,
        ctx=1024,
        store=str(tmp_path / "store"),
        store_bytes=100_000_000,
        checkpoint_s=1e-6,
    )

    async def work() -> None:
        async with engine(options) as client:
            request = Request(id="r", prompt=[7] * 200, sampling=GREEDY, max_tokens=500)
            stream = Stream(client, request)
            await stream.has(100)
            os.kill(rank_1(own_files) if ranks > 1 else client.pid or 0, signal.SIGKILL)
            await stream.task
            assert stream.tokens == (SAYS * 13)[:500]
            assert stream.end.timings.cached_tokens == 200
            assert client.restarts == 1
        assert not list((tmp_path / "store").rglob("*.rank*"))

    run(work)


def talk(name: str, first: int) -> Request:
    return Request(id=name, prompt=[first] * 200, sampling=GREEDY, max_tokens=3)


def test_a_persistent_store_survives_the_servers_end(parrot: Path, tmp_path: Path) -> None:
    """Closed and started again, the engine finds the prompt of before."""
    options = options_of(
        parrot, store=str(tmp_path / "store"), store_bytes=10_000_000, persistent=True
    )

    async def work() -> None:
        async with engine(options) as client:
            await texts(client, [talk("r", 7)])
        async with engine(options) as client:
            stream = Stream(client, talk("r", 7))
            await stream.task
            assert stream.end.timings.cached_tokens == 199
            assert stream.tokens == SAYS[:3]

    run(work)


def test_two_servers_with_one_store_have_a_part_each(parrot: Path, tmp_path: Path) -> None:
    """Neither deletes what the other stored, and both find their own again."""
    options = options_of(
        parrot, store=str(tmp_path / "store"), store_bytes=10_000_000, persistent=True
    )

    async def cached() -> tuple[int, int]:
        async with engine(options) as one, engine(options) as other:
            streams = [Stream(one, talk("r", 7)), Stream(other, talk("r", 8))]
            for stream in streams:
                await stream.task
            first, second = [stream.end.timings.cached_tokens for stream in streams]
            return first, second

    async def work() -> None:
        assert await cached() == (0, 0)
        kept = {path.parent for path in (tmp_path / "store").rglob("*.tokens")}
        assert len(kept) == 2
        assert await cached() == (199, 199)

    run(work)


# ---------------------------------------------------------------- what cannot start


def test_a_file_that_is_no_model_is_told_by_ready(tmp_path: Path) -> None:
    """Once, with the cause; the engine does not try for ever."""
    path = tmp_path / "no.gguf"
    path.write_bytes(b"no model" * 100)

    async def work() -> None:
        client = EngineSupervisor(options_of(path))
        client.start()
        with pytest.raises(ModelError, match=r"no\.gguf"):
            await client.ready()
        assert client.state == "failed"
        with pytest.raises(NotReadyError):
            client.submit(Request(id="r", prompt=[1]))
        await client.close()

    run(work)


def test_an_engine_killed_in_its_first_loading_is_told_by_ready(parrot: Path) -> None:
    """As where memory runs out: the user must know."""

    async def work() -> None:
        client = EngineSupervisor(options_of(parrot))
        client.start()
        await until(lambda: client.pid is not None)
        kill(client)
        with pytest.raises(EngineError, match="signal 9"):
            await client.ready()
        await client.close()

    run(work)


def test_a_place_where_no_process_can_be_started_is_told_by_ready(
    parrot: Path, own_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path too long for a socket is an error, and no silence."""
    long = own_files / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))

    async def work() -> None:
        client = EngineSupervisor(options_of(parrot))
        client.start()
        with pytest.raises(ResourceError, match="cannot be started"):
            await client.ready()
        await client.close()

    run(work)


def test_before_it_is_ready_nothing_is_taken(parrot: Path) -> None:
    """The error says that the model is being loaded; closed meanwhile, `ready` says so."""

    async def work() -> None:
        client = EngineSupervisor(options_of(parrot))
        client.start()
        with pytest.raises(NotReadyError, match="being loaded"):
            client.submit(Request(id="r", prompt=[1]))
        await until(lambda: client.pid is not None)
        waiting = asyncio.create_task(client.ready())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(NotReadyError, match="stopping"):
            await waiting

    run(work)


# ---------------------------------------------------------------- limits and cancels


def test_too_many_requests_are_refused_until_one_has_ended(parrot: Path) -> None:
    """One runs, two wait, the fourth is told to come back."""

    async def work() -> None:
        options = options_of(parrot, n_sequences=1, ctx=4096)
        async with engine(options, max_waiting=2) as client:
            streams = [
                Stream(client, Request(id=f"r{i}", prompt=[7], sampling=GREEDY)) for i in range(3)
            ]
            with pytest.raises(BusyError, match="3 requests"):
                client.submit(Request(id="r3", prompt=[7]))
            with pytest.raises(UsageError, match="its own id"):
                client.submit(Request(id="r0", prompt=[7]))
            streams[0].answer.cancel()
            await streams[0].task
            assert streams[0].end.reason == "cancelled"
            streams.append(Stream(client, Request(id="r3", prompt=[7], sampling=GREEDY)))
            for stream in streams[1:]:
                stream.answer.cancel()
                await stream.task

    run(work)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"prompt": [7] * 512}, ContextError),
        ({"prompt": [2048]}, UsageError),
        ({"prompt": [2**70]}, UsageError),
        ({"grammar": Grammar('root ::= "\ud800"')}, UsageError),
        ({"sampling": Sampling(logit_bias={-1: 1.0})}, UsageError),
    ],
)
def test_what_cannot_be_sent_is_refused_and_forgotten(
    parrot: Path, wrong: dict[str, Any], kind: type[Exception]
) -> None:
    """The caller is told at once, and the place in the queue is free."""

    async def work() -> None:
        async with engine(options_of(parrot, n_sequences=1), max_waiting=0) as client:
            for _ in range(3):
                with pytest.raises(kind):
                    client.submit(Request(**{"id": "r", "prompt": [7], **wrong}))
            good = Request(id="r", prompt=[7], sampling=GREEDY, max_tokens=3)
            assert await texts(client, [good]) == [(SAYS[:3], "length")]

    run(work)


def test_cancels_around_a_death_all_end(parrot: Path) -> None:
    """One cancelled as the engine dies, one while it starts again; the third goes on to its end."""

    async def work() -> None:
        async with engine(options_of(parrot, ctx=2048)) as client:
            dying, restarting = (
                Stream(client, Request(id=name, prompt=[7], sampling=GREEDY)) for name in "ab"
            )
            going = Stream(client, Request(id="c", prompt=[7], sampling=GREEDY, max_tokens=1000))
            await going.has(5)
            kill(client)
            dying.answer.cancel()  # nobody reads this any more
            await until(lambda: client.state == "restarting")
            restarting.answer.cancel()
            for stream in (dying, restarting, going):
                await stream.task
            assert dying.end.reason == restarting.end.reason == "cancelled"
            assert going.tokens == SAYS * 25
            await until(lambda: client.stats.running == 0)

    run(work)


def test_every_way_to_end_leaves_the_queue_empty(parrot: Path) -> None:
    """With room for one request only, thirty come after each other, whatever became of each."""

    async def work() -> None:
        async with engine(options_of(parrot, n_sequences=1), max_waiting=0) as client:
            for i in range(10):
                good = Request(id="r", prompt=[7 + i], sampling=GREEDY, max_tokens=5)
                assert (await texts(client, [good]))[0][1] == "length"
                bad = Stream(client, msgspec.structs.replace(good, grammar=Grammar("root ::= (")))
                await bad.task
                assert isinstance(bad.end, Failed)
                cancelled = Stream(client, msgspec.structs.replace(good, max_tokens=None))
                cancelled.answer.cancel()
                await cancelled.task
                (vector,) = await client.embed([[7, 8, 9]])
                assert len(vector) == client.info.n_embd

    run(work)


# ---------------------------------------------------------------- the end


def test_closing_ends_what_runs_and_takes_nothing_more(parrot: Path) -> None:
    """Answers that run are told that the server stops; processes and files are gone."""

    async def work() -> None:
        async with engine(options_of(parrot, ctx=4096)) as client:
            stream = Stream(client, Request(id="r", prompt=[7], sampling=GREEDY))
            await stream.has(3)
            await client.close()
            await stream.task
            assert isinstance(stream.end, Failed)
            assert stream.end.error.kind == "NotReadyError"
            assert client.state == "stopped"
            with pytest.raises(NotReadyError, match="stopping"):
                client.submit(Request(id="s", prompt=[7]))

    run(work)


def test_ranks_leave_no_shared_memory(parrot: Path, own_files: Path) -> None:
    """What workers and ranks had mapped of it is gone with them, also where one was killed."""
    shared: set[str] = set()

    async def work() -> None:
        async with engine(options_of(parrot, ranks=2)) as client:
            await texts(client, [Request(id="r", prompt=[7], sampling=GREEDY, max_tokens=20)])
            assert len(processes(own_files)) > 2
            for process in processes(own_files):
                shared.update(m.path for m in process.memory_maps() if m.path.startswith(SHARED))
            os.kill(rank_1(own_files), signal.SIGKILL)
            await texts(client, [Request(id="s", prompt=[7], sampling=GREEDY, max_tokens=20)])
            assert client.restarts == 1

    run(work)
    assert shared
    assert [path for path in shared if Path(path).exists()] == []


def test_an_embedding_model_answers_embeddings(vocabulary: Vocabulary) -> None:
    """As a process of its own; killed, it is started again."""
    text = vocabulary.tokenize("The goat looked at the barley.")

    async def work() -> None:
        async with engine(options_of(DEMO, embedding=True, pooling="mean")) as client:
            first, other = await client.embed([text, text[:3]])
            assert len(first) == client.info.n_embd
            assert first != other
            kill(client)
            await until(lambda: client.state == "restarting")
            assert (await client.embed([text]))[0] == first
            with pytest.raises(ContextError):
                await client.embed([[7] * 513])

    run(work)


PARENT = """
import asyncio, sys
from dure.deploy.options import RunOptions
from dure.worker.supervisor import EngineSupervisor
from dure.worker.protocol import EngineOptions
from dure.generate.request import Request, Sampling

async def main():
    run = RunOptions(ranks=int(sys.argv[2]), threads=1, ctx=4096)
    client = EngineSupervisor(EngineOptions(model=sys.argv[1], run=run))
    client.start()
    await client.ready()
    print("ready", flush=True)
    async for _ in client.submit(Request(id="r", prompt=[7], sampling=Sampling(temperature=0))):
        pass
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_server_killed_takes_its_engine_along(parrot: Path, own_files: Path, ranks: int) -> None:
    """Worker, mpiexec and ranks end by themselves."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(parrot), str(ranks)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        assert len(processes(own_files)) >= ranks
        parent.kill()
    assert_none_left(own_files)
    for left in own_files.glob("dure-engine-*"):  # the killed server's own: nobody else may
        for path in left.iterdir():
            path.unlink()
        left.rmdir()
