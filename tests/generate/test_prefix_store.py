"""The store of prefixes on a disk: what lies there is right, or counts as missing.

The files are real, and so is the executor; the scheduler's part is tested in test_scheduler.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dure.engine.executor import FullExecutor
from dure.engine.kv import Clear, Forget
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.errors import ResourceError
from dure.generate.prefix_store import PrefixStore
from dure.generate.scheduler import DropPrefix, LoadPrefix, StorePrefix, prefix_key
from tests.support.cut_models import cut_executor, step, whole_executor

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
LIMITS = Limits(n_ctx=512, threads=1, n_sequences=4)
TOKENS = [*range(300, 400)]
KEY = prefix_key(TOKENS)


@pytest.fixture(scope="module")
def demo() -> Iterator[LocalExecutor]:
    with whole_executor(DEMO, LIMITS) as executor:
        yield executor


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullExecutor]:
    with cut_executor(DEMO, [1, 1], tmp_path_factory.mktemp("shards"), limits=LIMITS) as executor:
        yield executor


@pytest.fixture(params=["demo", "two_ranks"])
def executor(request: pytest.FixtureRequest) -> FullExecutor:
    """One process, and two ranks."""
    found: FullExecutor = request.getfixturevalue(request.param)
    return found


def stored(executor: FullExecutor, directory: Path, tokens: list[int] | None = None) -> PrefixStore:
    """A store that holds some tokens, which are in sequence 0 as well."""
    tokens = tokens or TOKENS
    step(executor, tokens, 0, kv=[Clear()])
    store = PrefixStore(directory, executor)
    assert store.save(StorePrefix(0, prefix_key(tokens), tuple(tokens)))
    return store


def load(store: PrefixStore, slot: int = 1, n: int = len(TOKENS)) -> bool:
    return store.load(LoadPrefix(KEY, slot, len(TOKENS), n))


def test_a_sequence_is_the_same_after_being_stored_and_loaded(
    executor: FullExecutor, tmp_path: Path
) -> None:
    """The next token's logits are those of the sequence that stayed, bit by bit."""
    store = stored(executor, tmp_path)
    assert load(store)
    stayed = step(executor, [7], len(TOKENS), sequence=0)
    loaded = step(executor, [7], len(TOKENS), sequence=1)
    np.testing.assert_array_equal(loaded, stayed)


def test_loading_leaves_the_other_sequences_alone(executor: FullExecutor, tmp_path: Path) -> None:
    """A neighbour's next logits are what they were without it."""
    other = [*range(500, 560)]
    store = stored(executor, tmp_path)
    step(executor, other, 0, sequence=2)
    expected = step(executor, [9], len(other), sequence=2)
    assert load(store, slot=3)
    again = step(executor, [9], len(other), sequence=2, kv=[Forget(2, len(other))])
    np.testing.assert_array_equal(again, expected)


def test_a_new_store_finds_what_an_old_one_wrote(executor: FullExecutor, tmp_path: Path) -> None:
    """Keys with their tokens, the oldest first; reading makes young."""
    second = [*range(700, 800)]
    stored(executor, tmp_path)
    store = stored(executor, tmp_path, second)
    age(tmp_path, KEY, 200)
    age(tmp_path, prefix_key(second), 100)
    assert list(PrefixStore(tmp_path, executor).scan()) == [
        (KEY, TOKENS),
        (prefix_key(second), second),
    ]
    assert load(store)
    assert [key for key, _ in store.scan()] == [prefix_key(second), KEY]


def age(directory: Path, key: str, seconds: float) -> None:
    path = directory / f"{key}.tokens"
    at = path.stat().st_mtime - seconds
    os.utime(path, (at, at))


def test_what_is_dropped_leaves_no_file(executor: FullExecutor, tmp_path: Path) -> None:
    """Of every rank, and the tokens; dropping it again is no error."""
    store = stored(executor, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 + executor.info.n_ranks
    store.drop(DropPrefix(KEY))
    store.drop(DropPrefix(KEY))
    assert list(tmp_path.iterdir()) == []
    assert not load(store)


def test_storing_the_same_again_replaces_it(executor: FullExecutor, tmp_path: Path) -> None:
    """There are no more files than before, and it can be read."""
    store = stored(executor, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert store.save(StorePrefix(0, KEY, tuple(TOKENS)))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert load(store)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("n_bytes", [0, 1, 3, 399, 401, 800])
def test_a_tokens_file_of_a_wrong_size_counts_as_missing(
    demo: LocalExecutor, tmp_path: Path, n_bytes: int
) -> None:
    """Cut off or grown: it is neither found nor loaded, and is cleared away."""
    store = stored(demo, tmp_path)
    path = tmp_path / f"{KEY}.tokens"
    path.write_bytes((path.read_bytes() * 2)[:n_bytes])
    assert not load(store)
    assert list(store.scan()) == []
    assert list(tmp_path.iterdir()) == []


def test_other_tokens_in_the_file_count_as_missing(demo: LocalExecutor, tmp_path: Path) -> None:
    """One flipped bit would be the cache of another text: the name is the tokens' hash."""
    store = stored(demo, tmp_path)
    path = tmp_path / f"{KEY}.tokens"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert list(store.scan()) == []


def test_files_without_tokens_are_cleared_away(demo: LocalExecutor, tmp_path: Path) -> None:
    """As a process leaves that was killed while it wrote; what is whole stays."""
    store = stored(demo, tmp_path)
    for name in (f"{'0' * 32}.rank0", f"{'1' * 32}.rank0.part", f"{'2' * 32}.part"):
        (tmp_path / name).write_bytes(b"half")
    assert [key for key, _ in store.scan()] == [KEY]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{KEY}.rank0", f"{KEY}.tokens"]


def test_one_ranks_missing_part_makes_the_whole_missing(
    two_ranks: FullExecutor, tmp_path: Path
) -> None:
    """No rank keeps its part, and the sequence works afterwards."""
    store = stored(two_ranks, tmp_path)
    (tmp_path / f"{KEY}.rank1").unlink()
    assert not load(store)
    expected = step(two_ranks, TOKENS, 0, sequence=0, kv=[Forget(0)])
    np.testing.assert_allclose(step(two_ranks, TOKENS, 0, sequence=1), expected, atol=1e-4)


@pytest.mark.parametrize("where", ["cut", "head", "anywhere"])
def test_no_damage_of_a_ranks_file_harms_the_process(
    demo: LocalExecutor, tmp_path: Path, where: str
) -> None:
    """Cut off at 40 places, or with bytes changed at 40: it is refused or read, and never a crash."""
    store = stored(demo, tmp_path)
    path = tmp_path / f"{KEY}.rank0"
    whole, chance = path.read_bytes(), random.Random(1)
    for _ in range(40):
        data = bytearray(whole)
        if where == "cut":
            del data[chance.randrange(len(whole)) :]
        for _ in range(8 if where != "cut" else 0):
            data[chance.randrange(200 if where == "head" else len(whole))] = chance.randrange(256)
        path.write_bytes(data)
        assert not (load(store) and where == "cut")
        step(demo, TOKENS[:3], 0, sequence=1, kv=[Forget(1)])


def test_a_changed_byte_is_noticed(executor: FullExecutor, tmp_path: Path) -> None:
    """Where a disk gives back something else, wherever in a file, the prefix counts as missing."""
    store = stored(executor, tmp_path)
    for path in sorted(tmp_path.glob("*.rank*")):
        whole = path.read_bytes()
        for at in (0, 100, len(whole) // 2, len(whole) - 1):
            data = bytearray(whole)
            data[at] ^= 0x10
            path.write_bytes(data)
            assert not load(store), f"{path.name}, byte {at} of {len(whole)}"
        path.write_bytes(whole)
    assert load(store)


# ---------------------------------------------------------------- disks


def test_a_directory_that_cannot_be_made_is_an_error_of_the_user(
    demo: LocalExecutor, tmp_path: Path
) -> None:
    """The directory is named, with the cause."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"file/store.* cannot be made \(Not a directory\)"):
        PrefixStore(tmp_path / "file" / "store", demo)


def test_a_directory_that_vanished_stores_nothing_and_harms_nothing(
    executor: FullExecutor, tmp_path: Path
) -> None:
    """Somebody cleared the cache away while the engine ran."""
    store = stored(executor, tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    assert not store.save(StorePrefix(0, KEY, tuple(TOKENS)))
    assert not load(store)
    store.drop(DropPrefix(KEY))


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.support.cut_models import step
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.generate.scheduler import StorePrefix, prefix_key
from dure.generate.prefix_store import PrefixStore

executor = LocalExecutor(Path(sys.argv[1]), Limits(n_ctx=512, threads=1))
tokens = list(range(300, 400))
step(executor, tokens, 0)
store = PrefixStore(Path(sys.argv[2]), executor)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
assert store.save(StorePrefix(0, prefix_key(tokens), tuple(tokens))) is False
assert list(Path(sys.argv[2]).iterdir()) == []
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.save(StorePrefix(0, prefix_key(tokens), tuple(tokens))) is True
print("right")
"""


def test_where_there_is_no_room_nothing_is_left(tmp_path: Path) -> None:
    """A write that fails half way is told, its files are removed, and later it can be stored."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(DEMO), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.stdout == "right\n", done.stderr


def test_room_counts_what_the_store_holds_already(demo: LocalExecutor, tmp_path: Path) -> None:
    """So a store that is half of the disk is not half of the rest at the next start."""
    store = stored(demo, tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    free = shutil.disk_usage(tmp_path).free
    room = min(store.free_bytes())
    assert room >= size
    assert abs(room - size - free) < 10**9  # others write to the disk as well


def test_the_key_is_the_tokens_and_nothing_else() -> None:
    """The same tokens have the same key after a restart; others have another."""
    assert prefix_key([1, 2, 3]) == prefix_key((1, 2, 3))
    assert len({prefix_key([1]), prefix_key([1, 0]), prefix_key([256]), prefix_key([])}) == 4
