"""Contract: a leg skips what its QEMU cannot do before anything is booted, saying why, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.qemu.accelerator import Accelerator
from harness.qemu.architectures import AARCH64, DEFAULT_ARCHITECTURE, S390X
from harness.qemu.configuration import Flash
from snapproof.runs.matrix import Leg, _for_guest, _guest_of, _say_guests, own_bare
from snapproof.runs.options import OwnGuestOptions, StackOptions
from snapproof.runs.other_guests import OtherGuests
from tests_functional.lib.profile_row import ANY_GUEST, ProfileRow
from tests_unit.support.scenario_values import stack

_NEEDS = ProfileRow("t.snapshot", "a.py:A.test", "reason")
_NEEDS_TWO = ProfileRow("t.mapped", "a.py:A.test", "reason", needs=("background-snapshot", "mapped-ram"))
_NEEDS_NONE = ProfileRow("t.plain", "a.py:A.test", "reason", needs=())


def _leg(folder: Path, version: str, *capabilities: str) -> Leg:
    knowing = replace(stack(folder), executable=folder / version, capabilities=capabilities)
    return Leg(version, version, folder, knowing, {"qemu": version}, (_NEEDS, _NEEDS_TWO, _NEEDS_NONE))


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        (("events",), ["background-snapshot", "background-snapshot", ""]),
        (("background-snapshot",), ["", "mapped-ram", ""]),
        (("background-snapshot", "mapped-ram"), ["", "", ""]),
        ((), ["", "", ""]),
    ],
)
def test_tests_without_their_capability(
    tmp_path: Path, capabilities: tuple[str, ...], missing: list[str]
) -> None:
    """The first thing that is missing is named; a QEMU that did not say what it knows is given every test."""
    leg = _leg(tmp_path, "10.0.13", *capabilities)
    reasons = [leg.why_not(row) for row in leg.rows]
    assert reasons == [f"This QEMU has no capability '{name}'." if name else "" for name in missing]


def test_tests_that_need_an_operating_system(tmp_path: Path) -> None:
    """With a bare guest only tests that say so run, and a row may name a guest of its own."""
    leg = _leg(tmp_path, "10.0.13")
    linux = leg.stack.image
    bare = replace(linux, name="bare", bare=True)
    any_guest = replace(_NEEDS_NONE, kinds=ANY_GUEST)
    on_bare = replace(leg, stack=replace(leg.stack, image=bare), guests=(linux,))
    assert "needs an operating system" in on_bare.why_not(_NEEDS_NONE)
    because = replace(_NEEDS_NONE, why_linux="a driver writes")
    assert "an operating system in its guest (a driver writes), and" in on_bare.why_not(because)
    assert not on_bare.why_not(any_guest)
    assert not on_bare.why_not(replace(_NEEDS_NONE, parameters={"guest": linux.name}))
    assert "needs an operating system" in replace(leg, guests=(bare,)).why_not(
        replace(_NEEDS_NONE, parameters={"guest": "bare"})
    )


def test_tests_whose_guest_is_of_another_architecture(tmp_path: Path) -> None:
    """It runs on its own QEMU and machine, not on the run's; what it lacks is said."""
    leg = _leg(tmp_path, "10.0.13")
    leg = replace(leg, stack=replace(leg.stack, machine="microvm"), machines=("pc", "microvm"))
    other = replace(leg.stack.image, name="debian-13-arm64", architecture=AARCH64)
    row = replace(_NEEDS_NONE, parameters={"guest": "debian-13-arm64"})
    found = OtherGuests((other,), {"qemu-system-aarch64": tmp_path / "arm"})
    assert replace(leg, others=found).why_not(row) == ""
    assert "has no PCI" in leg.why_not(_NEEDS_NONE)
    missing = OtherGuests(missing={"debian-13-arm64": "There is no compiler."})
    assert replace(leg, others=missing).why_not(row) == "There is no compiler."


def test_newer_qemus_of_all_architectures(tmp_path: Path) -> None:
    """A test restores with a QEMU that emulates the processor of its guest."""
    found = OtherGuests(emulators={"qemu-system-aarch64": tmp_path / "arm"})
    legs = [_leg(tmp_path, "7.2.22"), replace(_leg(tmp_path, "10.0.13"), others=found)]
    assert json.loads(legs[0].newer(legs)) == {
        "10.0.13": {
            "qemu-system-aarch64": str(tmp_path / "arm"),
            "qemu-system-x86_64": str(tmp_path / "10.0.13"),
        }
    }


def test_rows_of_a_bare_guest_run_with_each(tmp_path: Path) -> None:
    """A row that names the usual bare guest takes that of the run's architecture; no other row changes."""
    linux = stack(tmp_path).image
    other = replace(linux, name="bare-aarch64", bare=True, architecture=AARCH64)
    row = replace(_NEEDS_NONE, parameters={"guest": "bare", "ram_mib": 128}, kinds=ANY_GUEST)
    assert own_bare(row, other).parameters == {"ram_mib": 128}
    assert own_bare(row, replace(linux, architecture=DEFAULT_ARCHITECTURE)) == row
    big = replace(linux, architecture=S390X)
    assert own_bare(row, big).parameters == {"guest": "bare-s390x", "ram_mib": 128}
    assert own_bare(row, replace(linux, architecture=replace(AARCH64, name="none"))) == row
    for guest in ("default", "bare-s390x"):
        named = replace(row, parameters={"guest": guest})
        assert own_bare(named, other) == named


def test_tests_with_bare_guests_alone(tmp_path: Path) -> None:
    """One test whose guest has an operating system is enough for a no."""
    leg = _leg(tmp_path, "10.0.0")
    image = leg.stack.image
    leg = replace(leg, guests=(replace(image, name="bare", bare=True),))
    bare, other = ProfileRow("a", "b", "c", {"guest": "bare"}), ProfileRow("d", "b", "c")
    assert leg.guests[0].bare
    assert not image.bare
    assert leg.has_bare_guests([bare, bare])
    assert not leg.has_bare_guests([bare, other])


def test_guest_that_no_test_has_is_not_built() -> None:
    """Where all tests have the bare guest it is the run's, unless the user names another."""
    bare, other = ProfileRow("a", "b", "c", {"guest": "bare"}), ProfileRow("d", "b", "c")
    usual = StackOptions()
    assert _guest_of([bare, bare], usual) == "bare"
    assert _guest_of([bare, other], usual) is None
    assert _guest_of([bare], replace(usual, own=OwnGuestOptions(disk=Path("/d")))) is None
    assert _guest_of([bare], replace(usual, guest="bare-i386")) == "bare-i386"


def test_row_may_have_less_ram_for_a_bare_guest(tmp_path: Path) -> None:
    """With an operating system the same test has the RAM of its parameters."""
    linux = replace(stack(tmp_path).image, own_mib=1)
    images = {"": linux, "bare": replace(linux, name="bare", bare=True)}
    row = replace(_NEEDS_NONE, bare_ram_mib=64)
    assert [
        _for_guest(replace(row, parameters={"ram_mib": 256, **guest}), images, {}).parameters["ram_mib"]
        for guest in ({}, {"guest": "bare"})
    ] == [256, 64]


def test_tests_that_need_kvm(tmp_path: Path) -> None:
    """A test of KVM is skipped with the probe's reason where its guest does not run under it."""
    bare = replace(stack(tmp_path).image, name="bare", bare=True)
    row = replace(_NEEDS_NONE, parameters={"guest": "bare", "accel": "kvm"}, kinds=ANY_GUEST)
    leg = replace(_leg(tmp_path, "10.0.13"), guests=(bare,))
    broken = replace(leg, accelerators={"bare": Accelerator("tcg", "It does not boot.")})
    assert broken.why_not(row) == "This test needs KVM, and its guest runs under tcg: It does not boot."
    assert not broken.why_not(replace(row, parameters={"guest": "bare", "accel": "tcg"}))
    assert not replace(leg, accelerators={"bare": Accelerator("kvm", "It boots.")}).why_not(row)


def test_bare_guests_run_under_the_accelerator_that_was_found(tmp_path: Path) -> None:
    """A KVM under which no Linux boots may run bare guests; a test that names its accelerator keeps it."""
    images = {"": stack(tmp_path).image, "bare": replace(stack(tmp_path).image, name="bare", bare=True)}
    found = {"bare": Accelerator("kvm", "It boots.")}
    linux, bare, tcg = (
        _for_guest(replace(_NEEDS_NONE, parameters=parameters), images, found).parameters.get("accel")
        for parameters in ({}, {"guest": "bare"}, {"guest": "bare", "accel": "tcg"})
    )
    assert (linux, bare, tcg) == (None, "kvm", "tcg")


def test_guests_in_place_of_the_run_s_own_are_told() -> None:
    """The head of a run says which of its tests have another guest than it names."""
    told: list[str] = []
    bare = replace(_NEEDS_NONE, parameters={"guest": "bare", "accel": "kvm"})
    full = replace(_NEEDS_NONE, parameters={"guest": "debian-13-full"})
    _say_guests((_NEEDS_NONE, bare, bare, full), told.append)
    assert told == [
        "2 of 4 tests run with the guest 'bare' instead under kvm.",
        "1 of 4 tests run with the guest 'debian-13-full' instead.",
    ]


def test_newest_last(tmp_path: Path) -> None:
    """A test that takes one newer QEMU takes the newest, whatever the order on the command line."""
    legs = [_leg(tmp_path, version) for version in ("11.1.3", "7.2.22", "10.0.13")]
    oldest = legs[1]
    assert oldest.newer(legs).index("10.0.13") < oldest.newer(legs).index("11.1.3")
    assert legs[0].newer(legs) == "{}"


def test_tests_that_name_a_machine_type(tmp_path: Path) -> None:
    """One that this QEMU lacks, or on which the guest cannot boot, is a skip; one without a list is tried."""
    leg = replace(_leg(tmp_path, "10.0.13"), machines=("pc", "q35", "microvm"))
    q35, old, small = (
        replace(_NEEDS_NONE, parameters={"machine": name}) for name in ("q35", "pc-q35-1.0", "microvm")
    )
    assert not leg.why_not(q35)
    assert leg.why_not(old) == "This QEMU has no machine type 'pc-q35-1.0'."
    assert "has no PCI" in leg.why_not(small)
    assert not replace(leg, machines=()).why_not(old)
    # The user's own firmware holds for all tests but those that name one; no bare guest starts from it.
    flash = Flash("uefi", tmp_path / "code", tmp_path / "variables")
    bare = replace(leg.stack.image, name="bare", bare=True)
    with_uefi = replace(leg, guests=(bare,), uefi=flash)
    row = replace(_NEEDS_NONE, parameters={"guest": "bare"}, kinds=ANY_GUEST)
    assert not with_uefi.why_not(row)
    assert "does not start from UEFI" in replace(with_uefi, stack=replace(leg.stack, flash=flash)).why_not(
        row
    )
    both = replace(row, parameters={"guest": "bare", "firmware": "uefi"})
    assert "does not start from UEFI" in with_uefi.why_not(both)
    # The user's own type is checked before, and may have properties.
    assert not replace(leg, stack=replace(leg.stack, machine="q35,hpet=off")).why_not(_NEEDS_NONE)
