"""One model on several machines, each a network namespace: the same text as on one, whatever dies."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cluster_hosts import Machine, invited, joined, machines, processes_of, ranks_of

from dure.cluster.root.membership import Member
from dure.cluster.root.readiness import check_nodes, common_ctx, machine_of
from dure.cluster.root.survey import NodeReport
from dure.errors import ClusterError, ResourceError
from dure.hardware.health import Health, Platform
from dure.plan.memory import RankMemory
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

# ---------------------------------------------------------------- which nodes are ready

PLATFORM = Platform("pi", "aarch64", "Cortex-A76", (), 4, 8 << 30, {"dure": "1", "llama.cpp": "2"})
HEALTH = Health(None, (), None, 0.0, 0.0, 8 << 30, 1 << 40, ())
MEMBER = Member("pi-1", "10.0.0.1", 7474, 1, 0.0)


def test_nodes_with_the_roots_software_are_ready() -> None:
    report = NodeReport(MEMBER, platform=PLATFORM, health=HEALTH)
    assert check_nodes([report], {"dure": "1", "llama.cpp": "2"}) == [PLATFORM]
    assert machine_of(report).cores == 4


def test_other_software_is_refused_by_the_nodes_name() -> None:
    report = NodeReport(MEMBER, platform=PLATFORM, health=HEALTH)
    with pytest.raises(ClusterError, match=r"pi-1 has llama\.cpp 2, and the root 3"):
        check_nodes([report], {"dure": "1", "llama.cpp": "3"})
    with pytest.raises(ClusterError, match="pi-1 has mpich none"):
        check_nodes([report], {"mpich": "5"})


def test_a_build_for_another_processor_is_refused() -> None:
    """As where a card was moved from one board to another."""
    moved = replace(PLATFORM, problem="llama.cpp was built for another processor, with DOTPROD")
    with pytest.raises(ClusterError, match=r"pi-1: .* with DOTPROD: install dure again on it"):
        check_nodes([NodeReport(MEMBER, platform=moved, health=HEALTH)], PLATFORM.versions)


def test_a_silent_node_and_no_nodes_are_told() -> None:
    with pytest.raises(ClusterError, match=r"pi-1 sleeps\. --nodes names those to go on with"):
        check_nodes([NodeReport(MEMBER, "pi-1 sleeps")], {})
    with pytest.raises(ClusterError, match="`dure cluster invite`"):
        check_nodes([], {})


def test_the_smallest_machine_sets_the_context_and_is_named() -> None:
    memory = RankMemory(1 << 30, 1 << 20)
    report = NodeReport(MEMBER, platform=PLATFORM, health=HEALTH)
    small = replace(HEALTH, available_bytes=2 << 30)
    tight = NodeReport(MEMBER, platform=PLATFORM, health=small)
    ranks = [("the root", memory, machine_of(report)), ("pi-1", memory, machine_of(tight))]
    assert common_ctx(256, 4096, ranks, 1) == 256
    with pytest.raises(ResourceError, match=r"^pi-1: a context of 4096 tokens needs"):
        common_ctx(4096, 4096, ranks, 1)


# ---------------------------------------------------------------- on hosts


@pytest.fixture(scope="module")
def alone() -> str:
    """The demo model's answer on one rank."""
    return told_alone()


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    """A root with four nodes."""
    with machines(tmp_path_factory.mktemp("hosts"), 5) as hosts:
        joined(*hosts)
        yield hosts


@needs_root
def test_five_machines_write_the_text_of_one(five: list[Machine], alone: str) -> None:
    """And no rank is left on any of them afterwards; so again with one node fewer each time."""
    root, *nodes = five
    for n in (4, 3, 2, 1):
        said = root.dure("run", DEMO, STORY, *ALL, *GREEDY, "-n", "150")
        assert said.strip() == alone
        wait_until(lambda: not any(map(ranks_of, five)))
        if n > 1:
            root.dure("cluster", "remove", nodes[n - 1].name)


@needs_root
def test_too_many_ranks_and_a_missing_node_are_told(five: list[Machine]) -> None:
    root, node, *_ = five
    refused = root.dure("run", DEMO, "hi", "--cluster", "--ranks", 9, status=2)
    assert "the cluster has 2 machines" in refused
    refused = root.dure("run", DEMO, "hi", "--cluster", "--shares", "1,1,1", status=2)
    assert f"here are 2, in this order: {root.name} (root), {node.name}" in refused
    assert "are for --cluster" in root.dure("run", DEMO, "hi", "--nodes", "all", status=2)
    assert "name some" in root.dure("run", DEMO, "hi", "--cluster", "--nodes", ",", status=2)
    twice = f"{node.name},{node.name}"
    root.dure("run", DEMO, "hi", "--cluster", "--nodes", twice, "--ranks", 2, "-n", 1)
    node.stop()
    refused = root.dure("run", DEMO, "hi", "--cluster", "--nodes", "all", status=1)
    assert f"{node.name} at {node.host.address}:7474 does not answer" in refused
    assert "start `dure node` on it" in refused
    root.dure("run", DEMO, "hi", "--cluster", "-n", 1)  # who is not named may be missing
    node.start("node", says=f"{node.name} of home at")


def events_of(root: Machine) -> list[dict[str, Any]]:
    """What happened, without what the server saw of its nodes now and then."""
    events: list[dict[str, Any]] = json.loads(root.dure("cluster", "events", "--json"))
    return [e for e in events if e["event"] not in {"facts", "silent", "answers", "throttled"}]


@pytest.mark.parametrize("whose", ["the node", "the root"])
@needs_root
def test_a_stream_goes_on_when_a_rank_is_killed(
    five: list[Machine], alone: str, whose: str
) -> None:
    """kill -9 in the middle: the engine starts again from the shards, and the text is the same."""
    root, node, *_ = five
    with serving(root), asking(root) as story:
        for rank in ranks_of(node if whose == "the node" else root):
            rank.kill()
        assert story() == f"{alone}<done>\n"
    wait_until(lambda: not any(map(ranks_of, five)))
    ended, started, replayed = events_of(root)[-3:]
    assert "was killed" in ended["reason"]
    assert ended["silent_s"] > 0
    assert started["shares"].keys() == {"dure-root", node.name}
    assert started["load_s"] > 0
    assert replayed["event"] == "replayed"
    assert replayed["replay_s"] > 0
    told = root.dure("cluster", "events")
    here, there = started["shares"]["dure-root"], started["shares"][node.name]
    assert f" shares={root.name} (root):{here:.3g},{node.name}:{there:.3g} " in told
    assert "{" not in told


@needs_root
def test_a_node_that_comes_back_in_time_is_waited_for(five: list[Machine], alone: str) -> None:
    """Its agent dies, and its rank with it; the stream pauses, /health says whom it waits for."""
    root, node, *_ = five
    with serving(root), asking(root) as story:
        node.stop()
        wait_until(lambda: not ranks_of(node))
        wait_until(lambda: f"waiting for {node.name}" in health_of(root))
        node.start("node", says=f"{node.name} of home at")
        assert story() == f"{alone}<done>\n"
    wait_until(lambda: not any(map(ranks_of, five)))


def health_of(root: Machine) -> str:
    """What /health answers."""
    command = ["curl", "-s", f"http://127.0.0.1:{PORT}/health"]
    done = subprocess.run(root.host.command(command), capture_output=True, text=True, check=False)
    return done.stdout


@needs_root
def test_one_that_stays_away_is_done_without_and_taken_in_again(
    five: list[Machine], alone: str
) -> None:
    """The root goes on alone, with the same text; when the node is back, it takes part again."""
    root, node, *_ = five
    with serving(root, "--grace", 2):
        with asking(root) as story:
            node.stop()
            assert story() == f"{alone}<done>\n"
        wait_until(lambda: not ranks_of(node))
        node.start("node", says=f"{node.name} of home at")
        wait_until(lambda: ranks_of(node))
        wait_until(lambda: '"ok"' in health_of(root))
        with asking(root) as story:
            assert story() == f"{alone}<done>\n"
        assert f" facts node={node.name}" in root.dure("cluster", "events")
    happened = [event["event"] for event in events_of(root)]
    expected = ["left_out", "engine_started", "replayed", "engine_ended", "engine_started"]
    assert happened[-5:] == expected
    wait_until(lambda: not any(map(ranks_of, five)))


@pytest.mark.parametrize("seconds", [4, 20])
@needs_root
def test_a_cable_that_is_out_for_a_while_costs_no_token(
    five: list[Machine], alone: str, seconds: int
) -> None:
    root, node, *_ = five
    with serving(root), asking(root) as story:
        for state in ("down", "up"):
            link = ["ip", "-n", node.name, "link", "set", node.host.device, state]
            subprocess.run(link, check=True)
            time.sleep(seconds if state == "down" else 0)
        assert story() == f"{alone}<done>\n"
    wait_until(lambda: not any(map(ranks_of, five)))


@needs_root
def test_a_node_that_is_halted_for_a_while_costs_no_token(five: list[Machine], alone: str) -> None:
    """SIGSTOP for ten seconds, less than a step may wait."""
    root, node, *_ = five
    with serving(root), asking(root) as story:
        halted = ranks_of(node)
        for rank in halted:
            rank.suspend()
        time.sleep(10)
        for rank in halted:
            rank.resume()
        assert story() == f"{alone}<done>\n"
    wait_until(lambda: not any(map(ranks_of, five)))


@needs_root
def test_a_root_that_is_killed_and_started_again_needs_no_hand_on_a_node(
    five: list[Machine], alone: str
) -> None:
    """Nodes stay, shards stay, and so does what was computed of the conversation before."""
    root, node, *_ = five
    prefixes = ("--cache-dir", root.home / "prefixes")
    with serving(root, *prefixes):
        assert cached_tokens(root) == 0
        wait_until(lambda: list((node.home / "dure_node_dir" / "prefixes").rglob("*.rank1")))
        agent = node.started[-1].pid
        with asking(root):
            for process in processes_of(root):
                process.kill()
    wait_until(lambda: not ranks_of(node))
    with serving(root, *prefixes), asking(root) as story:
        assert cached_tokens(root) > 100
        assert story() == f"{alone}<done>\n"
    assert node.started[-1].pid == agent
    assert node.started[-1].poll() is None


def cached_tokens(root: Machine) -> int:
    """How many tokens of a long prompt were there before it was asked."""
    body = {"prompt": "The goat looked at the barley. " * 20, "max_tokens": 1}
    command = ["curl", "-s", f"http://127.0.0.1:{PORT}/v1/completions", "-d", json.dumps(body)]
    done = subprocess.run(root.host.command(command), capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["usage"]["prompt_tokens_details"]["cached_tokens"])


@needs_root
def test_a_node_without_room_is_done_without_until_it_has_some(
    five: list[Machine], alone: str
) -> None:
    """Its shard is lost and its quota too small: the stream goes on without it."""
    root, node, *_ = five
    with serving(root), asking(root) as story:
        node.stop()
        root_shards = node.home / "dure_node_dir" / "shards"
        for path in root_shards.iterdir():
            path.unlink()
        node.start("node", "--quota", "0.00001", says=f"{node.name} of home at")  # 10 kB
        assert story() == f"{alone}<done>\n"
        wait_until(lambda: not ranks_of(node))
        wait_until(lambda: f"{node.name} has room for" in root.dure("cluster", "events"))
        refused = root.dure("run", DEMO, "hi", *ALL, "--share-node", status=1)
        assert f"{node.name} has room for" in refused
        node.stop()
        node.start("node", says=f"{node.name} of home at")
        wait_until(lambda: ranks_of(node))
    wait_until(lambda: not any(map(ranks_of, five)))


@needs_root
def test_a_network_device_may_be_named(five: list[Machine], alone: str) -> None:
    """On both ends; one that is not there is told with those that are."""
    root, node, *_ = five
    run = ("run", DEMO, STORY, *ALL, *GREEDY, "-n", "150", "--interface")
    device = root.host.device
    assert root.dure(*run, device).strip() == alone
    refused = root.dure(*run, "eth9", status=2)
    assert "no such network device that is up, only" in refused
    assert device in refused
    node.stop()
    refused = node.dure("node", "--interface", "eth9", status=2)
    assert node.host.device in refused
    node.start("node", "--interface", node.host.device, says=f"{node.name} of home at")
    assert root.dure(*run, device).strip() == alone
    assert "here, as a node" in node.dure("cache", "ls")


@needs_root
def test_shards_on_nodes_are_listed_deleted_and_sent_again(five: list[Machine], alone: str) -> None:
    root, node, *_ = five
    run = ("run", DEMO, STORY, *ALL, *GREEDY, "-n", "150")
    assert root.dure(*run).strip() == alone
    kept = json.loads(root.dure("cache", "ls", "--cluster", "--json"))
    assert node.name in {one["node"] for one in kept}
    (shard,) = (node.home / "dure_node_dir" / "shards").glob("*.gguf")
    right, times = shard.read_bytes(), shard.stat()
    shard.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    checked = root.dure("cache", "check", "--cluster", status=1)
    assert f"{node.name}: {shard.stem} is damaged" in checked
    assert root.dure(*run).strip() == alone
    assert shard.read_bytes() == right
    root.dure("cache", "prune", "--days", 0, "--cluster")
    assert json.loads(root.dure("cache", "ls", "--cluster", "--json")) == []
    assert root.dure(*run).strip() == alone


@needs_root
def test_machines_that_cost_more_than_they_save_are_left_out(five: list[Machine]) -> None:
    """Behind links whose round trip takes a second, as far as is known: and it is said why."""
    root, node, *_ = five
    speeds = json.loads(root.dure("cluster", "bench", "--types", "F16", "--json"))
    assert {one["name"] for one in speeds} >= {"dure-root", node.name}
    assert all(one["types"]["F16"]["decode_bytes_per_s"] > 1e6 for one in speeds)
    assert all(one["round_trip_s"] > 0 for one in speeds if one["name"] != "dure-root")
    kept = root.home / "dure_cluster_dir" / "speeds.json"
    known = json.loads(kept.read_text())
    for link in known["links"].values():
        link["round_trip_s"] = 1.0
    kept.write_text(json.dumps(known))
    root.dure("run", DEMO, "hi", "--cluster", "-n", 1)
    assert not any(map(ranks_of, five))
    told = json.loads(root.dure("cluster", "status", "--json"))["last_start"]
    assert told["shares"] == {"dure-root": 1.0}
    assert "ms with it, and takes" in told["left_out"][node.name]


@needs_root
def test_a_node_that_is_removed_is_done_without_until_it_joins_again(
    five: list[Machine], alone: str
) -> None:
    """When the server is quiet; the agent, which runs all the time, shows its new certificate by itself."""
    root, node, *_ = five
    gone = f"{node.name} belongs to the cluster no more"
    agent = node.started[-1].pid
    with serving(root):
        assert ranks_of(node)
        root.dure("cluster", "remove", node.name)
        wait_until(lambda: any(e.get("reason") == gone for e in events_of(root)))
        wait_until(lambda: '"ok"' in health_of(root))
        wait_until(lambda: not ranks_of(node))
        started = [e for e in events_of(root) if e["event"] == "engine_started"]
        assert started[-1]["shares"] == {"dure-root": 1.0}
        node.dure("join", invited(root), "--root", root.host.address, "--force")
        wait_until(lambda: ranks_of(node))
        wait_until(lambda: '"ok"' in health_of(root))
        with asking(root) as story:
            assert story() == f"{alone}<done>\n"
    assert node.started[-1].pid == agent
