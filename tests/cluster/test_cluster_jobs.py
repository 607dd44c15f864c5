"""Which commands use a cluster, and what they leave of its machines to another one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dure.cluster.job_identity import JobIdentity, busy_error
from dure.cluster.node.ranks import RankRuns
from dure.cluster.node.shards import ShardStore
from dure.cluster.node_api import NodeJob, RankOrder, shard_digest
from dure.cluster.root.job_registry import JobRegistry, MachineUse, Registration
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.sole_use import sole_use
from dure.cluster.root.survey import NodeReport
from dure.engine.limits import Limits
from dure.engine.ranks.job import Job
from dure.engine.wire import Wire
from dure.errors import ClusterError, UsageError
from dure.hardware.machine import Machine

GB = 10**9
SHARD = "goat-rank1of2-0123"
SERVE = JobIdentity("5" * 16, "serve", "goat-4b", "attic", 4242, 0.0)
RUN = JobIdentity("7" * 16, "run", "goat-1b", "attic", 77, 1.0)
BOARD = Machine(4, 8 * GB, 7 * GB)
JOB = """
import sys
from pathlib import Path
from dure.cluster.job_identity import JobIdentity
from dure.cluster.root.job_registry import JobRegistry, MachineUse
registry = JobRegistry(Path(sys.argv[1]), JobIdentity.new("serve", "goat"))
with registry.registered():
    registry.claim({name: MachineUse(2, 1000) for name in sys.argv[2:]}, ())
    print("claimed", flush=True)
    sys.stdin.read()
"""

Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Starts another process with a job that claims these nodes."""
    running: list[subprocess.Popen[str]] = []

    def start(*nodes: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        words = [sys.executable, "-c", JOB, str(tmp_path), *nodes]
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


# ---------------------------------------------------------------- the root's own record


def test_a_job_is_known_while_its_process_lives(tmp_path: Path, started: Started) -> None:
    """However it ends: by itself, or by SIGKILL without a chance to say so."""
    registry = JobRegistry(tmp_path)
    assert registry.others() == []
    for sign in (None, signal.SIGKILL):
        process = started("pi-1")
        (other,) = registry.others()
        assert (other.job.pid, other.job.command) == (process.pid, "serve")
        assert other.machines == {"pi-1": MachineUse(2, 1000)}
        if sign:
            process.send_signal(sign)
        process.communicate("")
        assert registry.others() == []
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {".lock"}


def test_a_node_that_another_claimed_meanwhile_is_not_claimed(
    tmp_path: Path, started: Started
) -> None:
    """Unless the choice reckoned with that one; and other nodes are free to claim."""
    registry = JobRegistry(tmp_path, RUN)
    use = MachineUse(1, 1)
    with registry.registered():
        assert registry.claim({"pi-2": use}, ())
        started("pi-1")
        known = {other.job.id for other in registry.others()}
        assert not registry.claim({"pi-1": use, "pi-2": use}, ())
        assert registry.claimed() == {"pi-2": use}
        assert registry.claim({"pi-1": use, "pi-2": use}, known)
        assert registry.claimed().keys() == {"pi-1", "pi-2"}
        asks = f"""
from pathlib import Path
from dure.cluster.root.job_registry import JobRegistry
print(len(JobRegistry(Path({str(tmp_path)!r})).others()))
"""
        words = [sys.executable, "-c", asks]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert said == "2\n"  # what was asked above has not given up the own lock


def test_machines_are_not_had_alone_while_a_job_has_not_chosen_its_own(
    tmp_path: Path, started: Started
) -> None:
    """It may be about to choose one of them; and whoever has them alone is in another one's way."""
    cluster = Cluster.create(tmp_path, "home")
    report = NodeReport(Member("pi-1", "10.0.0.1", 7474, 1, 0.0), "silent")
    undecided = started()
    with (
        pytest.raises(ClusterError, match="pi-1 is used by `dure serve goat`"),
        sole_use(cluster, RUN, [report]),
    ):
        pass
    undecided.communicate("")
    with sole_use(cluster, RUN, [report]):
        assert JobRegistry(tmp_path, RUN).claimed().keys() == {"pi-1"}
        cluster.delete()  # as when it is dissolved
    assert not tmp_path.exists()


# ---------------------------------------------------------------- a node's own word


class Line:
    """A root's end of a rank's line that says nothing; `run` is the node's end, with a real proxy."""

    def __init__(self, runs: RankRuns, owner: JobIdentity, **more: Any) -> None:
        limits = Limits(64, 1)
        job = Job("", "", ["", ""], [], 1.0, (), 1, Wire.Q8, limits, [1, 1], 64, None, 1.0)
        self._order = RankOrder(job, 1, SHARD, 1, owner, **more)
        self._ends = asyncio.Event()
        self.run = asyncio.create_task(runs.run(self._order, "lo", self._silence(), self._drop))

    async def _silence(self) -> AsyncIterator[bytes]:
        await self._ends.wait()
        return
        yield b""

    async def _drop(self, _block: bytes) -> None:
        pass

    async def end(self) -> None:
        """Close the line, and wait until the rank has ended."""
        self._ends.set()
        await asyncio.wait({self.run})


def runs_in(directory: Path) -> RankRuns:
    store = ShardStore(directory / "shards")
    store.begin(SHARD, 4)
    store.put(SHARD, 0, b"GGUF", hashlib.sha256(b"GGUF").digest())
    store.finish(SHARD, shard_digest(hashlib.sha256(b"GGUF").digest()))
    return RankRuns(directory, store)


async def until_held(runs: RankRuns, *jobs: JobIdentity) -> None:
    """Wait until the node reports these jobs, with processes."""
    while [one.job for one in runs.jobs() if one.used_bytes] != list(jobs):
        await asyncio.sleep(0.01)


def test_a_node_refuses_a_second_job_and_knows_its_own_again(tmp_path: Path) -> None:
    """Also if the root did not; one that shares comes in, and then the first may come again."""

    async def scenario() -> None:
        runs = runs_in(tmp_path)
        first = Line(runs, SERVE)
        await until_held(runs, SERVE)
        with pytest.raises(ClusterError, match="is used by `dure serve goat-4b` on attic"):
            await Line(runs, RUN).run
        second = Line(runs, RUN, shares=True)
        await until_held(runs, SERVE, RUN)
        again = Line(runs, SERVE)
        await asyncio.wait({first.run})
        await until_held(runs, RUN, SERVE)
        for line in (second, again):
            await line.end()
        assert runs.jobs() == []
        assert list((tmp_path / "run").iterdir()) == []

    asyncio.run(scenario())


def test_a_node_starts_no_rank_while_it_changes(tmp_path: Path) -> None:
    """And does not change while one runs; if the change fails, ranks start again."""

    async def scenario() -> None:
        runs = runs_in(tmp_path)
        with contextlib.suppress(UsageError), runs.closed():
            with pytest.raises(ClusterError, match="this node takes another name"):
                await Line(runs, RUN).run
            with pytest.raises(ClusterError, match="this node takes another name"), runs.closed():
                pass
            raise UsageError("the change fails")
        line = Line(runs, SERVE)
        await until_held(runs, SERVE)
        with pytest.raises(ClusterError, match="is used by `dure serve goat-4b`"), runs.closed():
            pass
        await line.end()
        with runs.closed():
            pass
        with pytest.raises(ClusterError, match="this node takes another name"):
            await Line(runs, RUN).run

    asyncio.run(scenario())


def test_a_job_that_its_root_knows_to_be_over_makes_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        runs = runs_in(tmp_path)
        first = Line(runs, SERVE)
        await until_held(runs, SERVE)
        second = Line(runs, RUN, ended=[SERVE.id])
        await asyncio.wait({first.run})
        await until_held(runs, RUN)
        await second.end()

    asyncio.run(scenario())


# ---------------------------------------------------------------- who uses what


def occupancy(
    *others: Registration, running: tuple[NodeJob, ...] = (), claimed: tuple[str, ...] = ()
) -> Occupancy:
    return Occupancy(RUN, claimed, others, {"pi-1": running})


def test_a_node_is_busy_from_the_claim_to_the_last_rank() -> None:
    """Of another root too, which no record here knows; each job is named once."""
    claimed = Registration(SERVE, {"pi-1": MachineUse(4, GB)})
    elsewhere = JobIdentity("9" * 16, "bench", "goat", "cellar", 9, 2.0)
    assert occupancy().is_free("pi-1")
    assert occupancy(claimed).holders("pi-1") == [SERVE]
    assert occupancy(claimed).is_free("pi-2")
    both = (NodeJob(SERVE, 4, GB), NodeJob(elsewhere, 4, GB))
    assert occupancy(claimed, running=both).holders("pi-1") == [SERVE, elsewhere]


def test_ranks_of_a_dead_command_and_of_the_same_job_are_nobody_else() -> None:
    """Those of a dead one of this root may be ended; those of another root are not known to be over."""
    left = (NodeJob(SERVE, 4, GB), NodeJob(RUN, 4, GB))
    assert occupancy(running=left).is_free("pi-1")
    assert occupancy(running=left).ended("pi-1") == [SERVE.id]
    elsewhere = JobIdentity("9" * 16, "bench", "goat", "cellar", 9, 2.0)
    assert occupancy(running=(NodeJob(elsewhere, 4, GB),)).ended("pi-1") == []


def test_a_node_stays_its_jobs_when_others_come_to_share_it() -> None:
    other = Registration(SERVE, {"pi-1": MachineUse(4, GB)})
    assert occupancy(other, claimed=("pi-1",)).is_free("pi-1")


def test_memory_that_others_have_claimed_and_not_taken_yet_is_theirs() -> None:
    """And what dead ranks and earlier ones of the same job hold will be free."""
    loading = Registration(SERVE, {"pi-1": MachineUse(4, 3 * GB)})
    assert occupancy(loading).left("pi-1", BOARD).available_bytes == 4 * GB
    half = (NodeJob(SERVE, 4, 2 * GB),)
    assert occupancy(loading, running=half).left("pi-1", BOARD).available_bytes == 6 * GB
    assert occupancy(running=half).left("pi-1", BOARD).available_bytes == 9 * GB
    own = (NodeJob(RUN, 4, GB),)
    assert occupancy(running=own).left("pi-1", BOARD).available_bytes == 8 * GB


@pytest.mark.parametrize(("theirs", "left"), [((4,), 2), ((1,), 3), ((4, 4), 1), ((2, 1), 1)])
def test_threads_are_what_others_leave_and_at_least_an_equal_part(
    theirs: tuple[int, ...], left: int
) -> None:
    others = [
        Registration(JobIdentity(str(i) * 16, "run", "goat", "attic", i, 0.0), {"pi-1": use})
        for i, use in enumerate(MachineUse(n, 0) for n in theirs)
    ]
    assert occupancy(*others).left("pi-1", BOARD).cores == left


def test_a_busy_node_is_told_in_one_line_with_every_cure() -> None:
    said = str(busy_error({"pi-1": [SERVE], "pi-2": [SERVE]}))
    assert "\n" not in said
    assert said.startswith("pi-1, pi-2 are used by `dure serve goat-4b` on attic (process 4242)")
    assert "--share-node runs beside it, `dure stop 4242` on attic ends it, --nodes names" in said
    assert "`kill 77`" in str(busy_error({"pi-1": [RUN]}))
