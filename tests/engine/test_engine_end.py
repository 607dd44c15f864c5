"""Every way an engine can end: one clear error, no hang, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from dure.engine.executor import Batch
from dure.engine.kv import Clear
from dure.engine.ranks.mpi import MpiExecutor, MpiOptions
from dure.errors import DureError, EngineError, ModelError, ResourceError, UsageError
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import cut_model, plan_shards
from tests.support.cut_models import LIMITS, cut_executor, step
from tests.support.random_models import SHAPES, write_random_model

END_S = 10.0  # within which all processes must be gone
CLIENT = """
import signal, sys, time
from pathlib import Path
from tests.support.cut_models import cut_executor, step
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where tests run in the background
with cut_executor(Path(sys.argv[1]), [1, 1], Path(sys.argv[2])) as executor:
    step(executor, [1, 2, 3], 0)
    print("ready", flush=True)
    for i in range(10**6):
        if sys.argv[3] == "idle":
            time.sleep(1)
        else:
            step(executor, [i % 100], 3 + i % 400)
"""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_random_model(path, SHAPES["qwen3"], "Q8_0")
    return path


@pytest.fixture(autouse=True)
def own_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Jobs of a test are made below its own directory, by which their processes are found."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    _assert_none_left(tmp_path)


def _processes(directory: Path) -> list[psutil.Process]:
    """Everything that was started for a job below `directory`: mpiexec, its proxy, the ranks."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(directory) in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def _has_begun(directory: Path) -> bool:
    """Whether a process was started for a job; one may end while it is looked at."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return any("job.json" in " ".join(p.cmdline()) for p in _processes(directory))
    return False


def _ranks(directory: Path) -> list[psutil.Process]:
    """The rank processes, in the order of their ranks."""
    ranks = [p for p in _processes(directory) if "dure.engine.ranks.rank" in p.cmdline()[2:3]]
    return sorted(ranks, key=lambda p: int(p.environ()["PMI_RANK"]))


def _mpiexec(directory: Path) -> psutil.Process:
    return next(p for p in _processes(directory) if Path(p.cmdline()[0]).name == "mpiexec")


def _assert_none_left(directory: Path) -> None:
    give_up = time.monotonic() + END_S
    while left := _processes(directory):
        assert time.monotonic() < give_up, [p.cmdline() for p in left]
        time.sleep(0.05)
    assert list(directory.glob("dure-*/rank0.sock")) == []


@pytest.fixture
def running(model_path: Path, tmp_path: Path) -> Iterator[MpiExecutor]:
    with cut_executor(model_path, [1, 1], tmp_path) as executor:
        step(executor, [1, 2, 3], 0)
        yield executor


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_between_steps_is_named(
    rank: int, running: MpiExecutor, tmp_path: Path
) -> None:
    _ranks(tmp_path)[rank].kill()
    with pytest.raises(EngineError, match=rf"rank {rank} was killed .*signal 9"):
        _steps_until_it_ends(running)


def _steps_until_it_ends(executor: MpiExecutor) -> None:
    for i in range(1_000_000):
        place = i % 400
        step(executor, [i % 100], place, kv=[] if place else [Clear()])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_in_a_step_ends_the_stream_with_an_error(
    rank: int, running: MpiExecutor, tmp_path: Path
) -> None:
    threading.Timer(0.3, _ranks(tmp_path)[rank].kill).start()
    with pytest.raises(EngineError, match=rf"rank {rank} was killed"):
        _steps_until_it_ends(running)


def test_a_killed_mpiexec_ends_the_ranks(running: MpiExecutor, tmp_path: Path) -> None:
    _mpiexec(tmp_path).kill()
    with pytest.raises(EngineError, match="please report it"):
        _steps_until_it_ends(running)


def test_idle_ranks_end_when_all_that_started_them_is_killed(
    running: MpiExecutor, tmp_path: Path
) -> None:
    """Neither mpiexec nor its proxy can end them any more: they see that they are alone."""
    ranks, mpiexec = _ranks(tmp_path), _mpiexec(tmp_path)
    (proxy,) = mpiexec.children()
    mpiexec.suspend()
    proxy.kill()
    mpiexec.kill()
    _, alive = psutil.wait_procs(ranks, timeout=END_S)
    assert alive == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_halted_rank_misses_the_deadline(
    rank: int, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: nothing dies, but nobody waits for ever; the halted rank is named."""
    monkeypatch.setenv("DURE_STEP_TIMEOUT", "1")
    with cut_executor(model_path, [1, 1], tmp_path) as executor:
        step(executor, [1, 2, 3], 0)
        _ranks(tmp_path)[rank].send_signal(signal.SIGSTOP)
        with pytest.raises(EngineError, match=rf"rank {rank} did not .* within"):
            _steps_until_it_ends(executor)


@pytest.mark.parametrize("busy", ["idle", "busy"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ranks_end_with_their_client(
    sign: signal.Signals, busy: str, model_path: Path, tmp_path: Path
) -> None:
    """However the client ends, mpiexec and all ranks end too."""
    command = [sys.executable, "-c", CLIENT, str(model_path), str(tmp_path / "shards"), busy]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        assert len(_ranks(tmp_path)) == 2
        client.send_signal(sign)
        client.wait(30)
    _assert_none_left(tmp_path)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_ranks_end_with_a_client_that_ends_while_they_start(
    sign: signal.Signals, model_path: Path, tmp_path: Path
) -> None:
    """At any moment of the start: before mpiexec's ranks, in MPI's own start, while loading."""
    _cut(model_path, tmp_path / "shards")
    command = [sys.executable, "-c", CLIENT, str(model_path), str(tmp_path / "shards"), "idle"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for moment in range(16):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
        ) as client:
            try:
                while not _has_begun(tmp_path):
                    assert client.poll() is None
                    time.sleep(0.002)
                time.sleep(moment * 0.03)
                client.send_signal(sign)
                client.wait(30)
            finally:
                client.kill()
        _assert_none_left(tmp_path)


def _start(
    model: Path, shards: list[Path], plan: CutPlan, wait_s: float | None = None
) -> MpiExecutor:
    return MpiExecutor(model, shards, plan, LIMITS, options=MpiOptions(wait_s=wait_s))


def _cut(model_path: Path, directory: Path) -> tuple[list[Path], CutPlan]:
    with open_gguf(model_path) as model:
        plan = plan_cut(model, [1, 1])
        shards = plan_shards(model, plan, directory)
        cut_model(model, shards)
    return [shard.path for shard in shards], plan


def test_a_missing_shard_is_named(model_path: Path, tmp_path: Path) -> None:
    shards, plan = _cut(model_path, tmp_path / "shards")
    shards[1].unlink()
    with pytest.raises(ModelError, match=rf"rank 1: llama.cpp cannot load {shards[1].name}"):
        _start(model_path, shards, plan)


def test_a_truncated_shard_is_named(model_path: Path, tmp_path: Path) -> None:
    shards, plan = _cut(model_path, tmp_path / "shards")
    os.truncate(shards[0], 100_000)
    with pytest.raises(ModelError, match=rf"rank 0: llama.cpp cannot load {shards[0].name}"):
        _start(model_path, shards, plan)


def test_a_shard_of_another_cut_is_refused(model_path: Path, tmp_path: Path) -> None:
    shards, _ = _cut(model_path, tmp_path / "shards")
    with open_gguf(model_path) as model:
        other = plan_cut(model, [3, 1])
    with pytest.raises(DureError, match=r"vocabulary rows instead of .*: delete it and cut again"):
        _start(model_path, shards, other)


def test_a_rank_killed_while_loading_is_named(model_path: Path, tmp_path: Path) -> None:
    """Rank 1's shard is a pipe that nobody writes, so it loads until it is killed."""
    shards, plan = _cut(model_path, tmp_path / "shards")
    shards[1].unlink()
    os.mkfifo(shards[1])

    def kill_when_started() -> None:
        while len(_ranks(tmp_path)) < 2:
            time.sleep(0.01)
        time.sleep(0.5)
        _ranks(tmp_path)[1].kill()

    killer = threading.Thread(target=kill_when_started)
    killer.start()
    with pytest.raises(EngineError, match=r"rank 1 was killed while .*ran out of memory"):
        _start(model_path, shards, plan)
    killer.join()


@pytest.mark.parametrize(
    ("what", "cause"),
    [("exit 7", "exit code 7"), ("kill -6 $$", "signal 6"), ("exec /nonexistent", "code 127")],
)
def test_a_rank_that_never_starts_ends_the_others(
    what: str, cause: str, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands before its command, a rank that ends before MPI has started is named."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nrank=$1; shift\n[ $rank = 1 ] && {what}\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("DURE_RANK_WRAPPER", f"{wrapper} {{rank}}")
    shards, plan = _cut(model_path, tmp_path / "shards")
    with pytest.raises(EngineError, match=rf"rank 1 died while starting \(.*{cause}"):
        _start(model_path, shards, plan)


def test_a_missing_mpiexec_says_what_brings_it(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DURE_MPIEXEC", "/nonexistent/mpiexec")
    shards, plan = _cut(model_path, tmp_path / "shards")
    with pytest.raises(
        ResourceError, match=r"DURE_MPIEXEC=/nonexistent/mpiexec is no program.*pip install"
    ):
        _start(model_path, shards, plan)


def test_closing_twice_is_closing_once(model_path: Path, tmp_path: Path) -> None:
    shards, plan = _cut(model_path, tmp_path / "shards")
    executor = _start(model_path, shards, plan)
    executor.close()
    executor.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        step(executor, [1], 0)


def test_a_bad_step_is_refused_and_the_next_one_runs(running: MpiExecutor) -> None:
    """What breaks a limit never reaches the ranks."""

    def batch(tokens: list[int], **more: object) -> Batch:
        n = len(tokens)
        arrays = (np.array(tokens, np.int32), np.arange(n, dtype=np.int32), np.zeros(n, np.int32))
        return Batch(*arrays, **more)  # type: ignore[arg-type]

    for bad, reason in (
        (batch([0] * 513), "513 tokens is over the limit of 512"),
        (batch([10**6]), "token 1000000 is outside of the vocabulary"),
        (batch([1], outputs=[1]), "are not all among"),
        (batch([1], outputs=[0], top_k=0), "top_k is 0"),
        (batch([1] * 40, outputs=range(40)), "40 output rows are over the limit"),
    ):
        with pytest.raises(UsageError, match=reason):
            running.step(bad)
    assert np.isfinite(step(running, [4], 3)).all()


def test_a_full_cache_is_an_error_that_names_the_context(running: MpiExecutor) -> None:
    with pytest.raises(EngineError, match=r"KV cache of 512 positions is full: use a larger --ctx"):
        _fill(running)


def _fill(executor: MpiExecutor) -> None:
    for first in range(3, 2000, 100):
        step(executor, [1] * 100, first)


def test_idle_ranks_hardly_use_a_core(running: MpiExecutor, tmp_path: Path) -> None:
    """Over five seconds without a step, each rank takes less than 3 % of a core's time."""
    ranks = _ranks(tmp_path)
    assert len(ranks) == running.info.n_ranks
    time.sleep(0.5)
    before = [sum(rank.cpu_times()[:2]) for rank in ranks]
    time.sleep(5)
    used = [sum(rank.cpu_times()[:2]) - b for rank, b in zip(ranks, before, strict=True)]
    assert max(used) < 0.03 * 5
