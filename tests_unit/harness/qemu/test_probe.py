"""A missing or foreign executable given as QEMU is one sentence, whatever it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.qemu.probe import cpu_models, has_block_driver, has_device, has_netdev, machine_types, probe_qemu
from harness.userfaultfd import FEATURES, probe_userfaultfd


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_missing_executable(tmp_path: Path) -> None:
    """A path that is not there."""
    with pytest.raises(UsageError, match="does not exist"):
        probe_qemu(tmp_path / "none")


def test_file_that_is_not_executable(tmp_path: Path) -> None:
    """A file without the x bit."""
    (tmp_path / "qemu").write_text("text")
    with pytest.raises(UsageError, match="is not executable"):
        probe_qemu(tmp_path / "qemu")


def test_other_program(tmp_path: Path) -> None:
    """A program that is not QEMU, with what it said as evidence."""
    with pytest.raises(UsageError, match="is not a QEMU") as caught:
        probe_qemu(_script(tmp_path / "qemu", "echo I am a teapot"))
    assert "teapot" in caught.value.evidence.log_tail


def test_device_that_a_qemu_was_built_without(tmp_path: Path) -> None:
    """A name that is only a part of one in the list is not in it."""
    qemu = _script(tmp_path / "qemu", """echo 'name "virtio-mem-pci", bus PCI'""")
    assert has_device(qemu, "virtio-mem-pci")
    assert not has_device(qemu, "virtio-mem")


def test_network_that_a_qemu_was_built_without(tmp_path: Path) -> None:
    """A name that is only a part of one in the list is not in it."""
    qemu = _script(tmp_path / "qemu", """echo 'Available netdev backend types:\nsocket\nvhost-user'""")
    assert has_netdev(qemu, "vhost-user")
    assert not has_netdev(qemu, "vhost")
    # As an architecture without a default machine type has it.
    strict = _script(tmp_path / "strict", """[ "$1 $2" = '-machine none' ] && echo dgram""")
    assert has_netdev(strict, "dgram")


@pytest.mark.parametrize(
    ("said", "has"),
    [
        ("Unknown driver 'x'", False),
        ("Parameter 'driver' does not accept value 'x'", False),
        ("Invalid parameter 'x'", False),
        ("aio=native was specified, but is not supported in this build.", False),
        ("Parameter 'path' is missing", True),
        ("", True),
    ],
)
def test_block_driver_that_a_qemu_was_built_without(tmp_path: Path, said: str, has: bool) -> None:
    """It is asked for by name; a driver that lacks further options is there."""
    wanted = 'case "$*" in *"-blockdev driver=x,node-name=asked,path=/"*)'
    qemu = _script(tmp_path / "qemu", f"""{wanted} echo "qemu: -blockdev: {said}" >&2;; esac""")
    assert has_block_driver(qemu, "x", "path=/") is has


def test_broken_executable(tmp_path: Path) -> None:
    """A file that the kernel cannot run."""
    broken = tmp_path / "qemu"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    with pytest.raises(UsageError, match="cannot be run"):
        probe_qemu(broken)


def test_wrapper_script_counts_as_qemu(tmp_path: Path) -> None:
    """Anything that answers as QEMU does is one."""
    answer = 'case $1 in -accel) printf "Accelerators supported:\\nkvm\\ntcg\\n";; *) echo '
    answer += '"QEMU emulator version 10.0.13 (Debian 1:10.0.13)";; esac'
    facts = probe_qemu(_script(tmp_path / "qemu", answer))
    assert facts.version == "10.0.13 (Debian 1:10.0.13)"
    assert facts.accelerators == ("kvm", "tcg")
    # It says nothing of capabilities, which is no fault of its user's.
    assert facts.capabilities == ()


@pytest.mark.parametrize(
    ("said", "capabilities"),
    [
        ('{"QMP": {}}\n{"return": {}}\n{"return": [{"capability": "events", "state": false}]}', ("events",)),
        ("wrapper: a word of its own\n[]\n17", ()),
        ('{"return": [17]}\n{"return": [{"state": true}]}', ()),
    ],
)
def test_capabilities(tmp_path: Path, said: str, capabilities: tuple[str, ...]) -> None:
    """They are found in what it says on QMP; anything else is as if it had not been asked."""
    (tmp_path / "said").write_text(said + "\n")
    answer = f"case $* in *qmp*) cat '{tmp_path}/said';; *) echo QEMU emulator version 10.0.13;; esac"
    assert probe_qemu(_script(tmp_path / "qemu", answer)).capabilities == capabilities


def test_userfaultfd_answer_is_consistent() -> None:
    """Either a descriptor was opened, or there is a reason; features have known names."""
    support = probe_userfaultfd()
    assert bool(support.opened_by) != bool(support.reason)
    assert set(support.features) <= set(FEATURES)


_LISTS = """case $* in *qmp*) while read -r line; do case $line in
*query-machines*) echo '{"return": [{"name": "pc-9", "alias": "pc"}, {"name": "none"}]}';;
*query-cpu*) echo '{"return": [{"name": "max", "typename": "max-cpu"}]}';;
*) echo '{"return": {}}';; esac; done;; esac"""


def test_machine_types_and_cpu_models(tmp_path: Path) -> None:
    """A type can be named by its alias too; a QEMU that lists nothing has none that are known."""
    qemu = _script(tmp_path / "qemu", _LISTS)
    assert machine_types(qemu) == ("pc-9", "none", "pc")
    assert cpu_models(qemu) == ("max",)
    assert machine_types(_script(tmp_path / "silent", "true")) == ()
