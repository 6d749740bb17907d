"""Lists which tests of attaching to VMs each profile runs."""

from __future__ import annotations

from collections.abc import Mapping

from harness.qemu.architectures import X86_64
from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, QUICK_GUEST, SMALL, UEFI, ProfileRow

_ATTACH = "attach/test_attach.py:Attach"

_GUEST: Mapping[str, str | int | float] = {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST}

# The room of a libvirt of our own has no /dev/kvm.
_LIBVIRT_GUEST: Mapping[str, str | int | float] = {**_GUEST, "accel": "tcg"}
_LINUX_DOMAIN: Mapping[str, str | int | float] = {"ram_mib": 256, "coverage": 0.7, "accel": "tcg"}
_UEFI_MACHINE = [kind.name for kind in X86_64.machines if kind.uefi][-1]
_FULL_DOMAIN: Mapping[str, str | int | float] = {
    "guest": "debian-13-full", "machine": _UEFI_MACHINE, "firmware": UEFI,
    "ram_mib": 512, "coverage": 0.6, "accel": "tcg",
}  # fmt: skip
_WHY_LINUX = "it is a domain with an operating system; a bare guest is in attach.libvirt-11"

ROWS = (
    ProfileRow(
        "attach.once",
        f"{_ATTACH}.test_again_and_again",
        "users' VMs are not started by snapproof; what is proven there has to leave them alone",
        {**_GUEST, "times": "1"},
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.linux",
        f"{_ATTACH}.test_again_and_again",
        "a guest with an operating system, network and interrupts is restored by a clone of its QEMU, too",
        {**SMALL, "times": "1"},
        why_linux="its clone has a network and interrupts to restore; a bare guest is proven by attach.once",
    ),
    ProfileRow(
        "attach.twenty-times",
        f"{_ATTACH}.test_again_and_again",
        "what one proof leaves behind (a descriptor, a setting) adds up",
        {**_GUEST, "times": "20"},
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.killed",
        f"{_ATTACH}.test_killed",
        "a shared VM must never be left stopped or with the capability on",
        _GUEST,
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.planted",
        f"{_ATTACH}.test_planted_fault",
        "a proof of a stranger's VM that cannot fail proves nothing",
        _GUEST,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.foreign-writer",
        f"{_ATTACH}.test_foreign_writer",
        "pages of a foreign writer would look like a defect of QEMU, or worse, like none",
        _GUEST,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.hidden-process",
        f"{_ATTACH}.test_hidden_process",
        "a QEMU in a container or of another user shares its socket, and not its memory",
        _GUEST,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.hidden-process-planted",
        f"{_ATTACH}.test_planted_fault_of_hidden_process",
        "a golden image made by QEMU that shows nothing proves nothing",
        _GUEST,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.owner-acts",
        f"{_ATTACH}.test_owner_acts",
        "a shared VM is administrated while it is saved, which is no defect of the snapshot",
        _GUEST,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-11",
        f"{_ATTACH}.test_libvirt",
        "users' VMs are domains of libvirt, which holds the monitor; 11.3 runs QEMU as a user without rights",
        {**_LIBVIRT_GUEST, "libvirt": "debian-13", "user": "libvirt-qemu"},
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-9",
        f"{_ATTACH}.test_libvirt",
        "libvirt 9.0 of long-lived hosts",
        {**_LIBVIRT_GUEST, "libvirt": "debian-12", "user": "root"},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-through",
        f"{_ATTACH}.test_libvirt_through",
        "users restore by virsh; a file that only a QEMU of our own takes is none for them",
        {**_LIBVIRT_GUEST, "libvirt": "debian-13", "user": "libvirt-qemu"},
        seconds=600,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-through-9",
        f"{_ATTACH}.test_libvirt_through",
        "the same with libvirt 9.0 of long-lived hosts",
        {**_LIBVIRT_GUEST, "libvirt": "debian-12", "user": "root"},
        seconds=600,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-fifty-times",
        f"{_ATTACH}.test_libvirt_again",
        "what one proof leaves in QEMU or libvirt (a descriptor, a node, a thread) adds up",
        {**_LIBVIRT_GUEST, "libvirt": "debian-13", "times": "50"},
        seconds=2400,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-linux-11",
        f"{_ATTACH}.test_libvirt_linux",
        "domains have an operating system, booted by its kernel here, with virtio devices on a pc",
        {**_LINUX_DOMAIN, "libvirt": "debian-13", "user": "libvirt-qemu"},
        why_linux=_WHY_LINUX,
    ),
    ProfileRow(
        "attach.libvirt-linux-9",
        f"{_ATTACH}.test_libvirt_linux",
        "the same with libvirt 9.0 of long-lived hosts",
        {**_LINUX_DOMAIN, "libvirt": "debian-12", "user": "root"},
        why_linux=_WHY_LINUX,
    ),
    ProfileRow(
        "attach.libvirt-uefi-11",
        f"{_ATTACH}.test_libvirt_linux",
        "a domain as users have it: PCI Express, UEFI, disks that are written to, and the QEMU guest agent",
        {**_FULL_DOMAIN, "libvirt": "debian-13", "user": "libvirt-qemu"},
        seconds=900,
        why_linux=_WHY_LINUX,
    ),
    ProfileRow(
        "attach.libvirt-uefi-9",
        f"{_ATTACH}.test_libvirt_linux",
        "the same with libvirt 9.0 of long-lived hosts",
        {**_FULL_DOMAIN, "libvirt": "debian-12", "user": "root"},
        seconds=900,
        why_linux=_WHY_LINUX,
    ),
    ProfileRow(
        "attach.libvirt-uefi-planted",
        f"{_ATTACH}.test_libvirt_linux_planted",
        "a proof of such a domain that cannot fail proves nothing",
        {**_FULL_DOMAIN, "libvirt": "debian-13"},
        seconds=900,
        why_linux=_WHY_LINUX,
    ),
    ProfileRow(
        "attach.libvirt-unpinned",
        f"{_ATTACH}.test_libvirt_unpinned",
        "a restored guest that does not notice the disk of a later time shows nothing of disks",
        {**_FULL_DOMAIN, "libvirt": "debian-13"},
        seconds=900,
        why_linux=_WHY_LINUX,
    ),
    ProfileRow(
        "attach.libvirt-planted",
        f"{_ATTACH}.test_libvirt_planted",
        "a proof of a domain that cannot fail proves nothing",
        {**_LIBVIRT_GUEST, "libvirt": "debian-13"},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-foreign-writer",
        f"{_ATTACH}.test_libvirt_foreign_writer",
        "disks of vhost-user are common under libvirt, and pages of theirs are newer than T0",
        {**_LIBVIRT_GUEST, "libvirt": "debian-13"},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-killed",
        f"{_ATTACH}.test_libvirt_killed",
        "the guard reaches a domain by libvirt alone, also when the command is gone",
        {**_LIBVIRT_GUEST, "libvirt": "debian-13"},
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-restarted",
        f"{_ATTACH}.test_libvirt_restarted",
        "an update of its package restarts libvirtd at any time, with events of QEMU lost",
        {**_LIBVIRT_GUEST, "libvirt": "debian-13"},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-killed-9",
        f"{_ATTACH}.test_libvirt_killed",
        "the same with libvirt 9.0 of long-lived hosts",
        {**_LIBVIRT_GUEST, "libvirt": "debian-12"},
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-restarted-9",
        f"{_ATTACH}.test_libvirt_restarted",
        "the same with libvirt 9.0 of long-lived hosts",
        {**_LIBVIRT_GUEST, "libvirt": "debian-12"},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-flows-11",
        f"{_ATTACH}.test_libvirt_flows",
        "users save domains by libvirt's own commands, also with the capability left on",
        {**_LIBVIRT_GUEST, "libvirt": "debian-13"},
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "attach.libvirt-flows-9",
        f"{_ATTACH}.test_libvirt_flows",
        "the same with libvirt 9.0 of long-lived hosts",
        {**_LIBVIRT_GUEST, "libvirt": "debian-12"},
        seconds=900,
        kinds=ANY_GUEST,
    ),
)
