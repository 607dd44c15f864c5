"""Shards on nodes: chunks that are checked, lines that break, disks that are full or damaged."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cluster_hosts import Machine, joined, machines

from dure.cluster.node.shards import ShardStore
from dure.cluster.node_api import CHUNK_BYTES, shard_digest
from dure.errors import ResourceError, UsageError
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import cut_model, plan_shards
from tests.support.needs_root import needs_root
from tests.support.random_models import SHAPES, write_random_model

NAME = "model-rank0of2-0123"
DATA = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"and a little more"


def chunks() -> Iterator[tuple[int, bytes, bytes]]:
    """Number, bytes and SHA-256 of each chunk of DATA."""
    for index in range(3):
        data = DATA[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        yield index, data, hashlib.sha256(data).digest()


DIGEST = shard_digest(b"".join(digest for _, _, digest in chunks()))


def filled(directory: Path) -> ShardStore:
    """A store that holds DATA as a whole shard."""
    store = ShardStore(directory)
    store.begin(NAME, len(DATA))
    for chunk in chunks():
        store.put(NAME, *chunk)
    store.finish(NAME, DIGEST)
    return store


# ---------------------------------------------------------------- a node's store


def test_a_shard_is_there_when_all_of_it_is(tmp_path: Path) -> None:
    """Not before, in whatever order its chunks come, and also for a store that is opened later."""
    store = ShardStore(tmp_path)
    assert store.begin(NAME, len(DATA)).chunks == bytes(96)
    for chunk in reversed(list(chunks())):
        assert not store.path(NAME).exists()
        with pytest.raises(UsageError, match="not complete"):
            store.finish(NAME, DIGEST)
        store.put(NAME, *chunk)
    store.finish(NAME, DIGEST)
    store.finish(NAME, DIGEST)  # asked again after a line broke
    (held,) = ShardStore(tmp_path).all()
    assert (held.name, held.whole, held.size_bytes) == (NAME, True, len(DATA))
    assert store.path(NAME).read_bytes() == DATA
    assert ShardStore(tmp_path).begin(NAME, len(DATA)).whole


def test_what_was_begun_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = next(chunks())
    ShardStore(tmp_path).begin(NAME, len(DATA))
    ShardStore(tmp_path).put(NAME, *first)
    held = ShardStore(tmp_path).begin(NAME, len(DATA))
    assert held.chunks == first[2] + bytes(64)


def test_two_senders_of_one_shard_are_in_nobodys_way(tmp_path: Path) -> None:
    """As two jobs that start at once: each may send what the other has sent, or finished, already."""
    one, other = ShardStore(tmp_path), ShardStore(tmp_path)
    for store in (one, other):
        assert store.begin(NAME, len(DATA)).chunks == bytes(96)
    for chunk in chunks():
        one.put(NAME, *chunk)
        if chunk[0] < 2:
            other.put(NAME, *chunk)
    one.finish(NAME, DIGEST)
    other.put(NAME, *list(chunks())[2])
    other.finish(NAME, DIGEST)
    assert one.path(NAME).read_bytes() == DATA
    changed = bytes(CHUNK_BYTES)
    with pytest.raises(UsageError, match="is not being sent"):
        other.put(NAME, 0, changed, hashlib.sha256(changed).digest())


def test_a_damaged_chunk_is_not_taken(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.begin(NAME, len(DATA))
    index, data, digest = next(chunks())
    with pytest.raises(UsageError, match="damaged on its way"):
        store.put(NAME, index, b"x" + data[1:], digest)
    for wrong in (-1, 3):
        with pytest.raises(UsageError, match="has no chunk"):
            store.put(NAME, wrong, data, digest)
    with pytest.raises(UsageError, match="has no chunk 2 of"):
        store.put(NAME, 2, data, digest)
    with pytest.raises(UsageError, match="begin it first"):
        store.put("other", index, data, digest)


def test_damage_on_the_disk_is_found_and_only_that_chunk_is_sent_again(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.is_sound(NAME)
    with store.path(NAME).open("r+b") as file:
        file.seek(CHUNK_BYTES + 5)
        file.write(b"?")
    assert not store.is_sound(NAME)
    held = store.begin(NAME, len(DATA))
    assert not held.whole
    missing = [n for n in range(3) if held.chunks[32 * n : 32 * n + 32] == bytes(32)]
    assert missing == [1]
    store.put(NAME, *list(chunks())[1])
    store.finish(NAME, DIGEST)
    assert store.is_sound(NAME)
    assert store.path(NAME).read_bytes() == DATA


def test_a_shard_that_somebody_wrote_to_is_checked_before_it_is_used(tmp_path: Path) -> None:
    """Damaged, it counts as begun; only touched, it is whole after it was read once."""
    store = filled(tmp_path)
    os.utime(store.use(NAME))
    assert store.all()[0].whole
    with store.path(NAME).open("r+b") as file:
        file.write(b"?")
    assert not store.all()[0].whole
    with pytest.raises(UsageError, match="is not here: start again"):
        store.use(NAME)


def test_a_shard_of_another_size_under_the_same_name_begins_anew(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert not store.begin(NAME, len(DATA) + 1).whole
    assert not store.path(NAME).exists()


def test_a_quota_is_told_before_the_first_byte(tmp_path: Path) -> None:
    """With what is needed, what is left, and the cure."""
    filled(tmp_path)
    store = ShardStore(tmp_path, quota_bytes=2 * len(DATA) - 1)
    with pytest.raises(
        ResourceError, match=r"needs 8\.388625 MB, .* 8\.388624 MB: `dure cache prune`"
    ):
        store.begin("other", len(DATA))
    assert [held.name for held in store.all()] == [NAME]
    store.delete(NAME)
    store.begin("other", len(DATA))


@needs_root
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """On a file system of 600 MB a shard of 400 MB does not fit beside what is kept free."""
    script = (
        "import sys; from pathlib import Path; from dure.cluster.node.shards import ShardStore\n"
        "from dure.errors import ResourceError\n"
        "store = ShardStore(Path(sys.argv[1]))\n"
        "try: store.begin('model', 400 << 20)\n"
        "except ResourceError as error: print(error)\n"
        "print(sorted(p.name for p in Path(sys.argv[1]).iterdir()))"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c",
         'mount -t tmpfs -o size=600m none "$1" && exec "$0" -c "$2" "$1"',
         sys.executable, str(tmp_path), script],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "needs 419.4 MB" in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a..b", "-a", "a\n", "a" * 300, "ä"])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    store = ShardStore(tmp_path / "shards")
    for act in (store.held, store.path, store.delete, lambda n: store.begin(n, 1)):
        with pytest.raises(UsageError, match="no name of a shard"):
            act(name)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- over a network

DELIVER = """
import json, sys
from pathlib import Path
from dure.cluster.root.distribution import Delivery, deliver
from dure.cluster.root.membership import Cluster
from dure.cluster.root.survey import Nodes
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import plan_shards
from dure.places import cluster_directory

cluster = Cluster(cluster_directory())
nodes, members = Nodes(cluster), cluster.members
with open_gguf(Path(sys.argv[1])) as model:
    plan = plan_cut(model, [1] * len(members))
    shards = plan_shards(model, plan, Path("nowhere"))
    clients = [nodes.client(member) for member in members]
    deliveries = [
        Delivery(shard, client)
        for shard, member, client in zip(shards, members, clients)
        if shard.name not in client.shards().whole_names
    ]
    print("begins", flush=True)
    deliver(model, deliveries)
    print(json.dumps([d.sent_bytes for d in deliveries]))
"""


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Machine]]:
    """A root with two nodes."""
    with machines(tmp_path, 3) as hosts:
        joined(*hosts)
        yield hosts


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of about 80 MB."""
    path = tmp_path / "model.gguf"
    write_random_model(path, replace(SHAPES["qwen3"], n_layer=20), "F32")
    return path


def delivering(root: Machine, model: Path) -> subprocess.Popen[bytes]:
    """The root sends; it has begun."""
    told = root.home / "told"
    with told.open("wb") as file:
        process = subprocess.Popen(
            root.host.command([sys.executable, "-c", DELIVER, str(model)]),
            env=root.environment,
            stdout=file,
        )
    while not told.read_text().startswith("begins\n"):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def sent(root: Machine, model: Path) -> list[int]:
    """What the root sends to each node that lacks something, in bytes."""
    assert delivering(root, model).wait(120) == 0
    numbers: list[int] = json.loads((root.home / "told").read_text().splitlines()[1])
    return numbers


def expected(model: Path, directory: Path) -> list[bytes]:
    """The shards as they are cut on one machine."""
    with open_gguf(model) as gguf:
        shards = plan_shards(gguf, plan_cut(gguf, [1, 1]), directory)
        directory.mkdir()
        cut_model(gguf, shards)
    return [shard.path.read_bytes() for shard in shards]


def on_nodes(nodes: list[Machine]) -> list[bytes]:
    """The shards that nodes hold, one each."""
    files = [list((node.home / "dure_node_dir" / "shards").glob("*.gguf")) for node in nodes]
    assert [len(found) for found in files] == [1] * len(nodes)
    return [found[0].read_bytes() for found in files]


@needs_root
def test_nodes_get_what_would_be_cut_and_get_it_once(
    three: list[Machine], model: Path, tmp_path: Path
) -> None:
    """Byte for byte; nothing is written on the root; the second time nothing is sent."""
    root, *nodes = three
    sizes = [len(shard) for shard in expected(model, tmp_path / "shards")]
    assert sent(root, model) == sizes
    assert on_nodes(nodes) == expected(model, tmp_path / "again")
    assert sent(root, model) == []
    assert not list(root.home.rglob("*.gguf"))


@needs_root
def test_a_cut_line_and_a_killed_root_cost_only_what_was_on_the_way(
    three: list[Machine], model: Path, tmp_path: Path
) -> None:
    """The line of one is down for three seconds; then the root is killed, and begins again."""
    root, *nodes = three
    shape = ["dev", nodes[0].host.device, "root", "tbf", "rate", "100mbit", "burst", "64kb"]
    subprocess.run(
        ["tc", "-n", nodes[0].name, "qdisc", "replace", *shape, "latency", "50ms"], check=True
    )
    process = delivering(root, model)
    time.sleep(1)
    for state in ("down", "up"):
        link = ["ip", "-n", nodes[0].name, "link", "set", nodes[0].host.device, state]
        subprocess.run(link, check=True)
        time.sleep(3)
    process.kill()
    process.wait()
    sizes = [len(shard) for shard in expected(model, tmp_path / "shards")]
    assert sum(sent(root, model)) < sum(sizes)
    assert on_nodes(nodes) == expected(model, tmp_path / "again")
