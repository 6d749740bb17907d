"""Contract: the kind of KVM is told by the modules behind it; what cannot be told is said to be unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.linux.kvm import DEVICE, Kvm, KvmKind, find_kvm, kvm_extension

_ON_A_HOST = "processor\t: 0\nflags\t\t: fpu vmx sse\n"
_IN_A_VM = "processor\t: 0\nflags\t\t: fpu vmx hypervisor sse\n\nprocessor\t: 1\nflags\t\t: fpu\n"


def _kind(folder: Path, cpuinfo: str, *modules: str) -> KvmKind:
    (folder / "kvm").touch()
    (folder / "cpuinfo").write_text(cpuinfo)
    for name in modules:
        (folder / "module" / name).mkdir(parents=True)
    return find_kvm(folder / "kvm", folder / "module", folder / "cpuinfo").kind


def test_extension_of_what_is_no_kvm(tmp_path: Path) -> None:
    """A file that is no KVM, or none at all, has no extension; KVM has irqfd (32), and not this one."""
    (tmp_path / "kvm").touch()
    assert [kvm_extension(32, tmp_path / name) for name in ("kvm", "none")] == [0, 0]
    if find_kvm().usable:
        assert kvm_extension(32, DEVICE) > 0
        assert kvm_extension(1 << 20, DEVICE) == 0


@pytest.mark.parametrize("module", ["kvm_intel", "kvm_amd"])
def test_hardware_is_full_on_a_host_and_nested_in_a_vm(tmp_path: Path, module: str) -> None:
    """The processor's flag `hypervisor` says that the host is a virtual machine itself."""
    (tmp_path / "host").mkdir()
    (tmp_path / "vm").mkdir()
    assert _kind(tmp_path / "host", _ON_A_HOST, "kvm", module) is KvmKind.FULL
    assert _kind(tmp_path / "vm", _IN_A_VM, "kvm", module) is KvmKind.NESTED


def test_pvm_is_told_by_its_module(tmp_path: Path) -> None:
    """PVM needs no virtualization of the processor; beside hardware KVM it is not what /dev/kvm uses."""
    assert _kind(tmp_path, _IN_A_VM, "kvm", "kvm_pvm") is KvmKind.PVM


def test_kvm_without_a_known_module_is_unknown(tmp_path: Path) -> None:
    """On other architectures KVM is a part of the kernel that has no module."""
    assert _kind(tmp_path, "Features\t: fp asimd\n") is KvmKind.UNKNOWN


def test_without_the_device_there_is_none(tmp_path: Path) -> None:
    """Loaded modules are not enough: a container may have no /dev/kvm."""
    found = find_kvm(tmp_path / "kvm", Path("/sys/module"), Path("/proc/cpuinfo"))
    assert (found.kind, found.usable) == (KvmKind.NONE, False)


def test_a_device_that_may_not_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is not in the group of /dev/kvm is told so; root, who may open all, is simulated away."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr("os.access", lambda *_: False)
    found = find_kvm(tmp_path / "kvm", tmp_path, tmp_path)
    assert (found.kind, found.usable) == (KvmKind.REFUSED, False)


@pytest.mark.parametrize("kind", KvmKind)
def test_each_kind_has_its_sentence(kind: KvmKind) -> None:
    """`doctor` prints it."""
    assert Kvm(kind).sentence.endswith(".")


def test_what_boots_under_a_pvm() -> None:
    """A bare guest has no kernel that could be built for it; elsewhere the kind of guest does not matter."""
    pvm, full = Kvm(KvmKind.PVM), Kvm(KvmKind.FULL)
    assert "Linux guest" in pvm.explained(bare=False)
    assert "Linux" not in pvm.explained(bare=True) and "bare guest" in pvm.explained(bare=True)
    assert full.explained(bare=True) == full.explained(bare=False) == full.sentence
