"""Contract: what libvirt and the machine are left with is judged, and a domain's definition is whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.codes import Code
from harness.errors import NotApplicable
from harness.qemu.architectures import AARCH64
from harness.status import Status
from tests_functional.attach.domains import domain_xml
from tests_functional.attach.libvirt import device_nodes, judge_domain, judge_nodes
from tests_unit.support.scenario_values import stack

_IDLE = "Job type:         None"


@pytest.mark.parametrize(
    ("state", "job", "what"),
    [
        ("running", _IDLE, []),
        ("paused", _IDLE, ["state"]),
        ("running", "Job type:         Unbounded", ["migration"]),
        ("running", "", ["migration"]),
    ],
)
def test_what_libvirt_says(state: str, job: str, what: list[str]) -> None:
    """A domain that is paused, or has a job, is not as it was."""
    found = judge_domain(state, job)
    assert [one.fields["what"] for one in found.violations] == what
    assert all(one.code is Code.ATTACH_LEFT for one in found.violations)


def test_device_nodes(tmp_path: Path) -> None:
    """Another mode, owner or number, and a node that is gone, are told; a new node is not."""
    for name in ("ptmx", "null", "gone"):
        (tmp_path / name).touch()
    before = device_nodes(tmp_path)
    assert judge_nodes(before, device_nodes(tmp_path)).status is Status.PASS
    (tmp_path / "ptmx").chmod(0o600)
    (tmp_path / "gone").unlink()
    (tmp_path / "new").touch()
    found = judge_nodes(before, device_nodes(tmp_path))
    assert [one.fields["what"] for one in found.violations] == ["gone", "ptmx"]


def test_definition_of_a_domain(tmp_path: Path) -> None:
    """It has the run's QEMU, guest and size, and is XML whatever is in the paths."""
    bare = stack(tmp_path)
    image = replace(bare.image, bare=True, kernel=tmp_path / "a&b", firmware=tmp_path / "bios", initrd=None)
    root = ElementTree.fromstring(domain_xml(replace(bare, image=image), "<disk/>", "<memoryBacking/>"))
    assert root.findtext("memory") == str(bare.ram_mib)
    assert root.findtext("vcpu") == str(bare.vcpus)
    assert root.findtext("os/kernel") == str(tmp_path / "a&b")
    assert root.findtext("devices/emulator") == str(bare.executable)
    assert root.find("devices/disk") is not None
    assert root.find("memoryBacking") is not None
    other = replace(image, architecture=AARCH64)
    with pytest.raises(NotApplicable):
        domain_xml(replace(bare, image=other))
