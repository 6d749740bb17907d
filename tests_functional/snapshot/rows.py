"""Lists which snapshot tests each profile runs, by flow, pattern, vCPUs, guest and other writers."""

from __future__ import annotations

from guest_images.agent.pages import PATTERNS
from guest_images.catalogue import guests_of_others
from harness.qemu.configuration import DEFAULT_RAM_MIB
from tests_functional.lib.profile_row import ANY_GUEST, LINUX, PREMERGE, SMOKE, ProfileRow
from tests_functional.snapshot.disturbances import DISTURBANCES
from tests_functional.snapshot.kvm_options import KVM_OPTIONS

_FLOWS = "snapshot/test_flows.py:SnapshotFlows"
_DISTURBANCE = "snapshot/test_disturbances.py:Disturbances.test_disturbance"

_GUESTS = {
    "linux-5.10": ("debian-11", "drivers of the time when the feature was merged"),
    "linux-6.1": ("debian-12", "the guest kernel that the other tests' figures come from"),
    "linux-6.12": ("debian-13", "the stable release's kernel lays out and moves its memory differently"),
    "linux-newest": ("debian-13-backports", "changes of memory management in new kernels show here first"),
    "full-debian": ("debian-13-full", "a usual guest: systemd, daemons, a disk, a page cache"),
}

_BARE_ACCELERATORS = {
    "live": ("tcg", "a whole proof in two seconds: the agent alone, without an operating system"),
    "live-kvm": ("kvm", "what all users run: vCPUs that fault in the kernel and not in TCG"),
}

_TCG_THREADS = {
    "single": "one thread for both vCPUs: a write that waits for its page holds up the other vCPU",
    "multi": "a thread for each vCPU: both can wait for pages at once",
}

_MAIN_JOB = ProfileRow(
    "snapshot.main-job",
    f"{_FLOWS}.test_main_job",
    "the main use: a live snapshot, a golden snapshot, and stop-and-save as the control",
    profiles=(*SMOKE, *PREMERGE),
    kinds=ANY_GUEST,
    # The stun of stop-and-save grows with RAM; with less it would not stand out from that of a live save.
    quick_ram_mib=DEFAULT_RAM_MIB,
)

ROWS = (
    _MAIN_JOB,
    ProfileRow(
        "snapshot.live-2-vcpus",
        f"{_FLOWS}.test_live",
        "two writers fault at once, in order, so that the save and both vCPUs meet on one page",
        {"vcpus": 2, "pattern": "sequential"},
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "snapshot.live-hot-set",
        f"{_FLOWS}.test_live",
        "the same few pages are written over and over around T0",
        {"pattern": "hot"},
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "snapshot.live-zero",
        f"{_FLOWS}.test_live",
        "pages turn from content to zero and back while zero pages take their own path in QEMU",
        {"pattern": "zero"},
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "snapshot.seeds-sparse",
        f"{_FLOWS}.test_seeds",
        "pages that are never touched must be zero in the file",
        {"pattern": "sparse"},
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "snapshot.seeds-file",
        f"{_FLOWS}.test_seeds_file",
        "QEMU opens and writes the file itself instead of feeding a command",
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    *(
        ProfileRow(
            f"snapshot.live-{pattern}-{vcpus}-vcpus",
            f"{_FLOWS}.test_live",
            "every pattern is combined with every number of writers",
            {"pattern": pattern, "vcpus": vcpus},
            kinds=ANY_GUEST,
        )
        for pattern in PATTERNS
        for vcpus in (1, 2, 4)
        if (pattern, vcpus) not in (("sequential", 2), ("random", 1), ("hot", 1), ("zero", 1))
    ),
    *(
        ProfileRow(
            f"snapshot.live-and-{name}",
            _DISTURBANCE,
            disturbance.reason,
            {"ram_mib": 256, "coverage": 0.5, "disturbance": name},
            profiles=PREMERGE if name == "network-receive" else (),
            kinds=ANY_GUEST if disturbance.packets else LINUX,
            why_linux=""
            if disturbance.packets
            else "devices, drivers or programs of the guest write as well",
        )
        for name, disturbance in DISTURBANCES.items()
    ),
    ProfileRow(
        "snapshot.stop-and-save",
        f"{_FLOWS}.test_stop_and_save",
        "the control alone: the oracles must agree on an ordinary save as well",
        needs=(),
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "snapshot.timers",
        f"{_FLOWS}.test_timers",
        "QEMU's own figures do not show a second stop after T0, the guest's heartbeat does",
        {"ram_mib": 1024},
        seconds=900,
        alone=True,
        why_linux="a thread that a timer wakes up is the heartbeat; a bare guest has no timer",
    ),
    *(
        ProfileRow(
            f"snapshot.tcg-{threads}-thread",
            f"{_FLOWS}.test_tcg_threads",
            reason,
            {"vcpus": 2, "threads": threads},
            kinds=ANY_GUEST,
        )
        for threads, reason in _TCG_THREADS.items()
    ),
    *(
        ProfileRow(
            f"bare.{name}",
            f"{_FLOWS}.test_live",
            reason,
            {"guest": "bare", "ram_mib": 128, "accel": accel},
            seconds=120,
            cycle_seconds=20,
            profiles=(*SMOKE, *PREMERGE) if accel == "kvm" else PREMERGE,
            kinds=ANY_GUEST,
        )
        for name, (accel, reason) in _BARE_ACCELERATORS.items()
    ),
    *(
        ProfileRow(
            f"bare.kvm-{name}",
            f"{_FLOWS}.test_kvm_option",
            found.reason,
            {"guest": "bare", "ram_mib": 128, "accel": "kvm", "vcpus": 2, "option": name},
            seconds=120,
            cycle_seconds=20,
            kinds=ANY_GUEST,
        )
        for name, found in KVM_OPTIONS.items()
    ),
    *(
        ProfileRow(
            f"guests.{name}",
            f"{_FLOWS}.test_main_job",
            reason,
            {"guest": guest},
            why_linux="it is about this guest",
        )
        for name, (guest, reason) in _GUESTS.items()
    ),
    *(
        ProfileRow(
            f"guests.{guest.name}",
            f"{_FLOWS}.test_main_job",
            guest.reason,
            {"guest": guest.name},
            alone=True,
            kinds=ANY_GUEST,
        )
        for guest in guests_of_others()
    ),
)
