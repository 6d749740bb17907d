"""Memory limits of control groups, of both versions, of parents, and seen from a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.linux.cgroup import memory_limits, oom_kills

MIB = 1 << 20


def _files(folder: Path, **content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def _proc(tmp_path: Path, cgroup: str, *mounts: str) -> Path:
    proc = tmp_path / "proc"
    _files(proc, cgroup=cgroup, mountinfo="\n".join(mounts))
    return proc


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    """A group below a limited parent; returns its /proc/self."""
    root = tmp_path / "cg"
    _files(root)
    # Above the mount is another file system.
    _files(tmp_path, memory__max=str(MIB), memory__current="0")
    _files(
        root / "job",
        memory__max=str(900 * MIB),
        memory__high="max",
        memory__current=str(500 * MIB),
        memory__events="oom_kill 5",
    )
    _files(
        root / "job" / "us",
        memory__max="max",
        memory__high=str(800 * MIB),
        memory__current=str(300 * MIB),
        memory__stat=f"anon 1\ninactive_file {50 * MIB}\nactive_file {50 * MIB}",
        memory__events="low 0\noom 2\noom_kill 3",
    )
    return _proc(
        tmp_path,
        "0::/job/us",
        f"30 1 0:2 / {root} rw,relatime - cgroup2 none rw",
        "31 1 0:3 / /proc rw - proc proc rw",
    )


def test_version_2(version_2: Path) -> None:
    """Both limits of the group and those of its parents count, and no page cache; kills are our group's."""
    found = [
        (limit.path.name, limit.limit_bytes // MIB, limit.free_bytes // MIB)
        for limit in memory_limits(version_2)
    ]
    assert found == [("memory.high", 800, 600), ("memory.max", 900, 400)]
    assert oom_kills(version_2) == 3


def test_version_1(tmp_path: Path) -> None:
    """The files have other names, and the largest number means no limit."""
    root = tmp_path / "cg"
    _files(root, memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="5")
    _files(
        root / "job",
        memory__limit_in_bytes=str(900 * MIB),
        memory__usage_in_bytes=str(500 * MIB),
        memory__stat=f"cache 7\ntotal_inactive_file {100 * MIB}\ntotal_active_file 0",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1",
    )
    proc = _proc(
        tmp_path,
        "4:memory:/job\n1:name=systemd:/x\n0::/",
        f"30 1 0:2 / {root} rw - cgroup cgroup rw,memory",
        f"31 1 0:3 / {tmp_path / 'empty'} rw - cgroup2 cgroup2 rw",
        f"32 1 0:4 / {root} rw - cgroup cgroup rw,cpu",
    )
    assert [(limit.limit_bytes // MIB, limit.free_bytes // MIB) for limit in memory_limits(proc)] == [
        (900, 500)
    ]
    assert oom_kills(proc) == 1


def test_a_container_sees_a_part_of_the_hierarchy(tmp_path: Path) -> None:
    """The mount begins at the container's group, which the path in /proc still names."""
    root = tmp_path / "cg"
    _files(root / "us", memory__max=str(700 * MIB), memory__current="0")
    proc = _proc(tmp_path, "0::/docker/abc/us", f"30 1 0:2 /docker/abc {root} ro - cgroup2 cgroup2 rw")
    assert [limit.limit_bytes // MIB for limit in memory_limits(proc)] == [700]


def test_without_control_groups(tmp_path: Path) -> None:
    """Without control groups there is no limit, and no process counts as killed."""
    assert memory_limits(tmp_path / "none") == []
    assert oom_kills(tmp_path / "none") == 0


def test_a_group_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    """Only the first two colons of a line separate its fields."""
    root = tmp_path / "cg"
    _files(root / "a:b:c", memory__max=str(700 * MIB), memory__current="0")
    proc = _proc(tmp_path, "0::/a:b:c", f"30 1 0:2 / {root} rw - cgroup2 cgroup2 rw")
    assert [limit.limit_bytes // MIB for limit in memory_limits(proc)] == [700]


def test_a_container_sees_a_part_of_a_hierarchy_of_version_1(tmp_path: Path) -> None:
    """As with version 2."""
    root = tmp_path / "cg"
    _files(root / "us", memory__limit_in_bytes=str(700 * MIB), memory__usage_in_bytes="0")
    proc = _proc(
        tmp_path, "4:memory:/docker/abc/us", f"30 1 0:2 /docker/abc {root} ro - cgroup cgroup rw,memory"
    )
    assert [limit.limit_bytes // MIB for limit in memory_limits(proc)] == [700]


def test_a_path_that_is_not_below_the_mounts_root_is_taken_as_it_is(tmp_path: Path) -> None:
    """In a control-group namespace our path begins at the namespace's root."""
    root = tmp_path / "cg"
    _files(root / "job", memory__max=str(700 * MIB), memory__current="0")
    proc = _proc(tmp_path, "0::/job", f"30 1 0:2 /docker/abc {root} ro - cgroup2 cgroup2 rw")
    assert [limit.limit_bytes // MIB for limit in memory_limits(proc)] == [700]


@pytest.mark.parametrize(
    ("current", "stat", "free"),
    [
        (700 * MIB + 1, "", 0),
        (500, f"inactive_file {MIB}", 700 * MIB),
        ("", "", 700 * MIB),
        (500, "anon 7", 700 * MIB - 500),
        (500, "active_file 200", 700 * MIB - 300),
    ],
)
def test_what_is_left_of_a_limit(tmp_path: Path, current: int | str, stat: str, free: int) -> None:
    """Never below nothing nor above the limit: use and cache are counted one after the other."""
    root = tmp_path / "cg"
    _files(root, memory__max=str(700 * MIB), memory__current=str(current), memory__stat=stat)
    proc = _proc(tmp_path, "0::/", f"30 1 0:2 / {root} rw - cgroup2 cgroup2 rw")
    assert [limit.free_bytes for limit in memory_limits(proc)] == [free]
    assert oom_kills(proc) == 0


def test_a_group_may_have_any_name(tmp_path: Path) -> None:
    """A name is bytes of any encoding."""
    root, name = tmp_path / "cg", os.fsdecode(b"j\xf6b")
    _files(root / name, memory__max=str(700 * MIB), memory__current="0")
    proc = _proc(tmp_path, "", f"30 1 0:2 / {root} rw - cgroup2 cgroup2 rw")
    (proc / "cgroup").write_bytes(b"0::/j\xf6b\n")
    assert [limit.limit_bytes // MIB for limit in memory_limits(proc)] == [700]
