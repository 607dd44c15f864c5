"""Several commands on one cluster of hosts: none ends another's ranks, dead ones are in nobody's way."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_hosts import Machine, joined, machines, processes_of, ranks_of

from dure.cluster.root.speeds import KnownSpeeds, LinkSpeed
from dure.engine.instruments.speed import Speed
from dure.model.ggml import WRITABLE_TYPES
from tests.support.cluster_serving import (
    ALL,
    DEMO,
    GREEDY,
    PORT,
    STORY,
    asking,
    serving,
    told_alone,
    wait_until,
)
from tests.support.needs_root import needs_root
from tests.support.random_models import SHAPES, write_random_model

pytestmark = needs_root
RUN = ("run", DEMO, STORY, *GREEDY, "-n", 150)


@pytest.fixture(scope="module")
def alone() -> str:
    """The demo model's answer on one rank."""
    return told_alone()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    """A root with two nodes."""
    with machines(tmp_path_factory.mktemp("hosts"), 3) as hosts:
        joined(*hosts)
        yield hosts


def test_show_tells_what_each_machine_would_hold(three: list[Machine]) -> None:
    """Without measuring or starting anything; what does not fit is said, and which node does not answer."""
    root, one, other = three
    shown = json.loads(root.dure("show", DEMO, "--cluster", "--json"))["cluster"]
    names = ["dure-root", one.name, other.name]
    assert sorted(shown["guessed"]) == sorted(names)
    assert not (root.home / "dure_cluster_dir" / "speeds.json").exists()
    held = shown["machines"]
    took_part = [machine["name"] for machine in held]
    assert sorted([*took_part, *shown["left_out"]]) == sorted(names)
    assert sum(machine["share"] for machine in held) == pytest.approx(1, abs=1e-3)
    assert all(machine["fits"] for machine in held)
    assert all(m["weights_bytes"] < m["memory_bytes"] < m["free_bytes"] for m in held)
    text = root.dure("show", DEMO, "--cluster", "--parallel", 128)
    assert f"{root.name} (root) " in text
    assert "not measured, so taken to be as fast as others" in text
    one.stop()
    left_out = json.loads(root.dure("show", DEMO, "--cluster", "--json"))["cluster"]["left_out"]
    assert one.name in left_out
    one.start("node", says=f"{one.name} of home at")


def test_a_measurement_has_the_machines_to_itself(three: list[Machine]) -> None:
    """While `cluster bench` runs, a model is not started on them."""
    root, *_ = three
    bench = subprocess.Popen(
        root.command("cluster", "bench", "--types", "Q4_0"),
        env=root.environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: any(jobs_of(root)))
        refused = root.dure("run", DEMO, "hi", *ALL, status=1)
        assert "are used by `dure cluster bench Q4_0`" in refused
    finally:
        assert bench.wait(120) == 0
    assert not any(jobs_of(root))


def jobs_of(root: Machine) -> list[list[dict[str, Any]]]:
    """The jobs that each node reports, in the nodes' order."""
    nodes = json.loads(root.dure("cluster", "status", "--json"))["nodes"]
    return [node["jobs"] for node in nodes]


def test_the_second_command_is_refused_and_the_first_goes_on(
    three: list[Machine], alone: str
) -> None:
    """In one line, with who holds the nodes and what to do; no rank of the first has changed."""
    root, *nodes = three
    with serving(root), asking(root) as story:
        ranks = [rank.pid for node in three for rank in ranks_of(node)]
        for command in (("run", DEMO, "hi"), ("bench", DEMO), ("serve", DEMO, "--port", PORT + 1)):
            refused = root.dure(*command, *ALL, status=1).strip().splitlines()[-1]
            assert f"{nodes[0].name}, {nodes[1].name} are used by `dure serve dure-demo`" in refused
            assert f"on {root.name} (process {root.started[-1].pid}) since " in refused
            assert "--share-node runs beside it, `dure stop " in refused
        refused = (
            root.dure("cluster", "bench", "--types", "Q4_0", status=1).strip().splitlines()[-1]
        )
        assert (
            f"{root.name} (root), {nodes[0].name}, {nodes[1].name} are used by `dure serve dure-demo`"
            in refused
        )
        assert "wait until it is done, or `dure stop " in refused
        for change in (("rename", nodes[0].name, "pi-9"), ("dissolve", "--yes")):
            refused = root.dure("cluster", *change, status=1).strip().splitlines()[-1]
            assert f"{nodes[0].name}" in refused
            assert "used by `dure serve dure-demo`" in refused
        refused = root.dure(*RUN, "--cluster", "--nodes", nodes[0].name, status=1)
        assert f"{nodes[0].name} is used by" in refused
        assert story() == f"{alone}<done>\n"
        assert [rank.pid for node in three for rank in ranks_of(node)] == ranks
        status = root.dure("cluster", "status")
        assert status.count("serve dure-demo") == 4  # the root's line, the nodes', and in full
        first, second = jobs_of(root)
        assert first == second
        assert (first[0]["command"], first[0]["pid"]) == ("serve", root.started[-1].pid)
    assert not any(jobs_of(root))


def test_two_jobs_share_the_nodes_and_both_tell_it_right(three: list[Machine], alone: str) -> None:
    """Also when the first's engine dies and starts again beside the second."""
    root, node, _ = three
    with serving(root), asking(root) as story:
        assert root.dure(*RUN, *ALL, "--share-node").strip() == alone
        assert story() == f"{alone}<done>\n"
        second = ("serve", DEMO, *ALL, *GREEDY, "--share-node", "--port", PORT + 1)
        root.start(*second, says="ready")
        assert [len(jobs) for jobs in jobs_of(root)] == [2, 2]
        assert len(ranks_of(node)) == 2
        with asking(root) as one, asking(root, PORT + 1) as other:
            for rank in ranks_of(node):
                rank.kill()
            assert one() == f"{alone}<done>\n"
            assert other() == f"{alone}<done>\n"
        assert [len(jobs) for jobs in jobs_of(root)] == [2, 2]
    wait_until(lambda: not any(map(ranks_of, three)))


def test_a_busy_node_is_left_out_while_another_is_free_and_taken_when_it_is(
    three: list[Machine], alone: str
) -> None:
    """With `all`: the start says so, and how the model is divided; a server takes the node once the other
    command has ended.
    """
    root, node, other = three
    first = ("serve", DEMO, "--cluster", "--nodes", node.name, *GREEDY, "--port", PORT + 1)
    root.start(*first, says="ready")
    holder = root.started.pop()
    with serving(root):
        said = (root.home / "log0").read_text()
        assert f"goes on without busy nodes: {node.name} is used by `dure serve dure-demo`" in said
        divided = rf"the model is divided: {root.name} \(root\) \d+%, {other.name} \d+%\n"
        assert re.search(divided, said), said
        assert (len(ranks_of(node)), len(ranks_of(other))) == (1, 1)
        holder.terminate()
        holder.wait()
        wait_until(lambda: [len(jobs) for jobs in jobs_of(root)] == [1, 1])
        wait_until(lambda: ranks_of(node))
        with asking(root) as story:
            assert story() == f"{alone}<done>\n"
    wait_until(lambda: not any(map(ranks_of, three)))


def test_a_killed_command_frees_its_nodes_at_once(three: list[Machine], alone: str) -> None:
    root, *_ = three
    with serving(root), asking(root):
        kill_all_on(root)
        assert root.dure(*RUN, *ALL).strip() == alone
    wait_until(lambda: not any(map(ranks_of, three)))


def test_ranks_that_a_dead_command_left_behind_make_way(three: list[Machine], alone: str) -> None:
    """The root lost power and came back with another address: no node knows that its line is dead."""
    root, *nodes = three
    with serving(root):
        left = [rank for node in nodes for rank in ranks_of(node)]
        link = ("ip", "-n", root.name, "link", "set", root.host.device)
        subprocess.run([*link, "down"], check=True)
        kill_all_on(root)
        with another_address(root):
            subprocess.run([*link, "up"], check=True)
            assert [len(jobs) for jobs in jobs_of(root)] == [1, 1]
            assert all(rank.is_running() for rank in left)
            assert root.dure(*RUN, *ALL).strip() == alone
            assert {rank.pid for rank in left}.isdisjoint(
                rank.pid
                for node in nodes
                for rank in ranks_of(node)  # without zombies
            )
    wait_until(lambda: not any(map(ranks_of, three)))


def kill_all_on(machine: Machine) -> None:
    """Kill all processes on a host, some of which end with others."""
    for process in processes_of(machine):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def another_address(machine: Machine) -> Iterator[None]:
    """Give a host another address while the block runs."""
    own, other = machine.host.address, "10.213.0.99"
    where = ("dev", machine.host.device)
    for old, new in ((own, other), (other, own)):
        for verb, address in (("del", old), ("add", new)):
            words = ("ip", "-n", machine.name, "address", verb, f"{address}/24", *where)
            subprocess.run(words, check=True)
        if new == other:
            yield


def test_show_leaves_out_what_a_start_would(three: list[Machine], tmp_path: Path) -> None:
    """A full disk is said as the start says it, a busy node takes no part, and a model that is too large
    without it is told who has it; if all are busy, nothing can start.
    """
    root, one, other = three
    with_equal_speeds(root, *three[1:])
    one.stop()
    one.start("node", "--quota", "0.001", says=f"{one.name} of home at")
    disks = {machine["name"]: machine["disk"] for machine in forecast(root)["machines"]}
    assert f"{one.name} has room for" in disks[one.name]
    assert (disks["dure-root"], disks[other.name]) == ("", "")
    assert "no room on its disk" in root.dure("show", DEMO, "--cluster")
    assert disks[one.name] in root.dure("run", DEMO, "hi", "--cluster", status=1)
    one.stop()
    one.start("node", says=f"{one.name} of home at")
    large = tmp_path / "large.gguf"
    write_random_model(large, replace(SHAPES["qwen3"], n_ctx_train=10**9), "F16")
    too_large = (large, "--ctx", 10**9)
    assert "all machines together have" in forecast(root, *too_large)["problem"]
    alone = ("--cluster", "--nodes", one.name, "--port", PORT, *GREEDY)
    root.start("serve", DEMO, *alone, says="ready")
    busy = forecast(root)
    assert f"{one.name} is used by `dure serve dure-demo`" in busy["left_out"][one.name]
    assert [machine["name"] for machine in busy["machines"]] == ["dure-root", other.name]
    lacking = forecast(root, *too_large)
    assert f"{one.name} is used by" in lacking["problem"]
    assert one.name in lacking["left_out"]
    root.stop()
    with serving(root):
        assert f"{one.name}, {other.name} are used by" in forecast(root)["problem"]


def with_equal_speeds(root: Machine, *nodes: Machine) -> None:
    """Let the root know that every machine helps: all are slow, and their links are quick."""
    directory = root.home / "dure_cluster_dir"
    (directory / "speeds.json").unlink(missing_ok=True)
    known = KnownSpeeds(directory)
    for type_name in WRITABLE_TYPES:
        for name in ("dure-root", *(node.name for node in nodes)):
            for _ in range(2):
                known.keep(name, Speed(type_name, 1, 1e6, 1e6))
    for node in nodes:
        known.keep(node.name, link=LinkSpeed(1e-6, 1e10))


def forecast(root: Machine, *words: object) -> Any:
    return json.loads(root.dure("show", *(words or (DEMO,)), "--cluster", "--json"))["cluster"]
