"""A container's limits are what dure believes the machine has: from recorded files, and in real groups."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dure.hardware.control_groups import GroupLimits, group_limits
from dure.hardware.machine import Machine
from dure.hardware.probe import limited
from tests.support.control_groups import real_group
from tests.support.dure_process import DURE, Dure, error_line

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GB = 10**9
V1 = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime master:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
UNLIMITED_V1 = "9223372036854771712"


def recorded(root: Path, own: str, mounts: str, files: dict[str, str]) -> GroupLimits:
    """The limits that these files tell. own: /proc/self/cgroup; files: below /sys/fs/cgroup."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(own)
    (proc / "mountinfo").write_text(mounts)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return group_limits(root)


def test_systemd_writes_a_services_limits_to_its_own_group_v2(tmp_path: Path) -> None:
    """CPUQuota=150% and MemoryMax=2G of a unit; cached files count as free, shared memory does not."""
    unit = "system.slice/dure-node.service"
    limits = recorded(
        tmp_path,
        "0::/system.slice/dure-node.service\n",
        V2.format(top="/"),
        {
            f"{unit}/cpu.max": "150000 100000",
            f"{unit}/memory.max": str(2 * GB),
            f"{unit}/memory.high": "max",
            f"{unit}/memory.current": str(GB),
            f"{unit}/memory.stat": "anon 500000000\nfile 500000000\nshmem 200000000\n"
            "inactive_file 100000000\nactive_file 200000000",
            "system.slice/cpu.max": "max 100000",
            "system.slice/memory.max": "max",
        },
    )
    assert limits.cpu is not None
    assert (limits.cpu.cpus, limits.cpu.source) == (1.5, f"cpu.max of /{unit}")
    (memory,) = limits.memory
    assert (memory.limit_bytes, memory.free_bytes) == (2 * GB, GB + 300_000_000)
    assert memory.source == f"memory.max of /{unit}"


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    """A slice's quota is smaller than its unit's, and what others of the slice took is not free."""
    limits = recorded(
        tmp_path,
        "0::/user.slice/app.slice\n",
        V2.format(top="/"),
        {
            "user.slice/app.slice/cpu.max": "400000 100000",
            "user.slice/cpu.max": "200000 100000",
            "user.slice/app.slice/memory.high": str(4 * GB),
            "user.slice/app.slice/memory.current": str(GB),
            "user.slice/memory.max": str(8 * GB),
            "user.slice/memory.current": str(7 * GB),
        },
    )
    machine = limited(Machine(8, 16 * GB, 12 * GB), limits)
    assert (machine.cores, machine.memory_bytes, machine.available_bytes) == (2, 4 * GB, GB)
    assert machine.cpu_limit == "a quota of 2 CPUs (cpu.max of /user.slice)"
    assert machine.memory_limit == "a limit of 8.0 GB (memory.max of /user.slice)"


def test_a_container_with_its_own_namespace_is_the_top_of_what_it_sees_v2(tmp_path: Path) -> None:
    """Docker and Kubernetes with cgroup v2: /proc/self/cgroup says `/`, and the files are at the top."""
    limits = recorded(
        tmp_path,
        "0::/\n",
        V2.format(top="/"),
        {"cpu.max": "50000 100000", "memory.max": str(GB), "memory.current": "1000"},
    )
    machine = limited(Machine(8, 16 * GB, 12 * GB), limits)
    assert (machine.cores, machine.available_bytes) == (1, GB - 1000)
    assert machine.limits == (
        "a quota of 0.5 CPUs (cpu.max of /)",
        "a limit of 1.0 GB (memory.max of /)",
    )


@pytest.mark.parametrize("path", ["/docker/4f1c", "/kubepods/burstable/pod7e/4f1c"])
def test_a_container_sees_its_group_as_the_mounts_top_v1(tmp_path: Path, path: str) -> None:
    """With cgroup v1 the path is the host's, and only the container's own directory is mounted."""
    limits = recorded(
        tmp_path,
        f"9:memory:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:{path}\n",
        V1.format(top=path),
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "250000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": str(2 * GB),
            "memory/memory.usage_in_bytes": str(GB),
            "memory/memory.stat": "cache 1\ninactive_file 7\ntotal_inactive_file 400000000\n"
            "total_active_file 100000000",
        },
    )
    machine = limited(Machine(8, 16 * GB, 12 * GB), limits)
    assert (machine.cores, machine.memory_bytes, machine.available_bytes) == (
        2,
        2 * GB,
        GB + 500_000_000,
    )
    assert path in machine.memory_limit


def test_a_pods_limit_holds_its_container_v1(tmp_path: Path) -> None:
    """Where the whole hierarchy is mounted, groups above the process are read too."""
    limits = recorded(
        tmp_path,
        "9:memory:/kubepods/pod7e/4f1c\n",
        V1.format(top="/"),
        {
            "memory/kubepods/pod7e/4f1c/memory.limit_in_bytes": UNLIMITED_V1,
            "memory/kubepods/pod7e/memory.limit_in_bytes": str(3 * GB),
            "memory/kubepods/pod7e/memory.usage_in_bytes": "0",
            "memory/memory.limit_in_bytes": UNLIMITED_V1,
        },
    )
    assert [(one.limit_bytes, one.source) for one in limits.memory] == [
        (3 * GB, "memory.limit_in_bytes of /kubepods/pod7e")
    ]


@pytest.mark.parametrize(
    ("own", "mounts"),
    [
        ("", ""),  # not Linux, or hidden
        ("0::/\n", V2.format(top="/")),  # the machine's own top has no limits
        ("0::/../../other\n", V2.format(top="/")),  # outside of the namespace
    ],
)
def test_without_limits_the_machine_is_as_it_is(tmp_path: Path, own: str, mounts: str) -> None:
    """Nothing is missed if there are no groups, or none says anything."""
    machine = Machine(8, 16 * GB, 12 * GB)
    assert limited(machine, recorded(tmp_path, own, mounts, {})) == machine


def test_a_limit_above_what_the_machine_has_is_none(tmp_path: Path) -> None:
    """What is left is never more than the machine's own."""
    files = {"cpu.max": "6400000 100000", "memory.max": str(64 * GB), "memory.current": "0"}
    machine = Machine(8, 16 * GB, 12 * GB)
    assert limited(machine, recorded(tmp_path, "0::/\n", V2.format(top="/"), files)) == machine


ASK = """
import dataclasses, json
from dure.hardware.probe import n_cpus, probe
print(json.dumps([dataclasses.asdict(probe()), n_cpus()]))
"""


def test_a_real_groups_limits_are_found_by_a_process_in_it() -> None:
    """A nested group: the outer one's memory and the inner one's quota hold."""
    with real_group() as outer, outer.child("inner") as inner:
        outer.limit_memory(GB)
        inner.limit_memory(8 * GB)
        inner.limit_cpus(1)
        done = subprocess.run(
            inner.command(sys.executable, "-c", ASK), capture_output=True, check=True
        )
        machine, n_cpus = json.loads(done.stdout)
    assert machine["memory_bytes"] == pytest.approx(GB, abs=1 << 16)  # whole pages
    assert 0.8 * GB < machine["available_bytes"] < GB
    assert outer.name in machine["memory_limit"]
    assert (machine["cores"], n_cpus) == (1, 1)


def test_the_default_threads_are_those_of_the_quota_and_a_verbose_run_says_why(
    tmp_path: Path,
) -> None:
    """Two ranks get a core each of two, and one quota of one CPU is divided among them."""
    dure = Dure(tmp_path)
    arguments = ("run", str(DEMO), "Hello", "-n", "4", "--verbose")
    with real_group() as group:
        group.limit_cpus(1)
        done = subprocess.run(
            group.command(*DURE, *arguments, "--ranks", "2"),
            capture_output=True,
            text=True,
            env=dure.environment,
            check=True,
        )
    assert "2 ranks share the 1 cores of this machine" in done.stderr
    assert f"limits      a quota of 1 CPUs (cpu.cfs_quota_us of {group.name})" in (
        done.stderr.replace("cpu.max", "cpu.cfs_quota_us")
    )


def test_a_model_that_does_not_fit_a_limit_is_refused_before_it_loads(tmp_path: Path) -> None:
    """One line names the limit; without it the kernel would end the process in the middle."""
    dure = Dure(tmp_path)
    with real_group() as group:
        group.limit_memory(400_000_000)
        done = subprocess.run(
            group.command(*DURE, "run", str(DEMO), "Hello", "--ctx", "1024", "--ranks", "8"),
            capture_output=True,
            text=True,
            env=dure.environment,
            check=False,
        )
    assert done.returncode == 1
    line = error_line(done.stderr)
    assert "are free within a limit of 400.0 MB" in line
    assert group.name in line
