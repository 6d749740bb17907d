"""Checks which kinds of guest memory QEMU accepts on a host: shmem and huge pages need Linux 5.19."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from harness.codes import Code
from harness.qemu.messages import INCOMPATIBLE_MEMORY
from tests_functional.hosts.feature_tests import HostFeatures
from tests_functional.hosts.snapshots import REFUSAL, Report
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult

_TAKES = "QEMU accepts guest memory of this kind exactly where the kernel can protect it."
_MIB = 64
# For each kind QEMU's object and the kernel feature that protects it; no kernel can protect a file on a disk.
_KINDS = {
    "anonymous": ("memory-backend-ram", "PAGEFAULT_FLAG_WP"),
    "memfd": ("memory-backend-memfd,share=on", "WP_HUGETLBFS_SHMEM"),
    "hugetlb": ("memory-backend-memfd,share=on,hugetlb=on,hugetlbsize=2M", "WP_HUGETLBFS_SHMEM"),
    "file": ("memory-backend-file,share=on,mem-path={folder}/ram", None),
}


def kind_commands(qemu: PurePosixPath, folder: PurePosixPath) -> dict[str, Sequence[str]]:
    """Return command lines of QEMUs without a guest, by the kind of their memory.

    A machine without devices starts in half of the time, and QEMU looks at all memory alike
    (ram_write_tracking_compatible() in migration/ram.c).

    Args:
        qemu: the executable on the host.
        folder: our folder on the host, with room for a file of the guest's size.
    """
    fixed = ("-nodefaults", "-no-user-config", "-display", "none", "-S", "-trace", "uffd_*", "-m", f"{_MIB}M")
    monitor = ("-chardev", "socket,id=qmp,fd=@QMP", "-mon", "chardev=qmp,mode=control")
    return {
        kind: [
            *(str(qemu), *fixed, *monitor, "-machine", "none,memory-backend=ram"),
            *("-object", f"{backend.format(folder=folder)},id=ram,size={_MIB}M"),
        ]
        for kind, (backend, _) in _KINDS.items()
    }


def judge_kinds(report: Report, features: HostFeatures) -> list[CheckResult]:
    """Return a check for each kind of memory that QEMU was asked about."""
    told = [event for event in report.events if event["event"] == "kind"]
    known = report.find("unknown", "background") is None
    return [_judge(event, features) if known else _unknown(event, report) for event in told]


def _unknown(event: Mapping[str, str], report: Report) -> CheckResult:
    reason = f"QEMU {report.version} has no background-snapshot."
    return skipped(f"memory-{event['kind']}", _TAKES, reason)


def _judge(event: Mapping[str, str], features: HostFeatures) -> CheckResult:
    kind, text = event["kind"], event["text"].rstrip(".")
    needed = _KINDS[kind][1]
    can = features.write_protect and needed in features.names
    if not event["available"]:
        return skipped(f"memory-{kind}", _TAKES, f"The host has no such memory: {text}")
    expected = INCOMPATIBLE_MEMORY if features.write_protect else REFUSAL
    problems = []
    if can and text:
        problems.append(
            Problem(
                Code.REFUSAL_UNNEEDED,
                f"The kernel can protect memory of the kind '{kind}', and QEMU refuses: {text}",
            )
        )
    if not can and not text:
        problems.append(
            Problem(
                Code.REFUSAL_ABSENT,
                f"The kernel cannot protect memory of the kind '{kind}', and QEMU accepts it.",
            )
        )
    if not can and text and text != expected:
        problems.append(
            Problem(
                Code.REFUSAL_OTHER_REASON,
                f"QEMU refuses memory of the kind '{kind}' with another reason: {text}",
            )
        )
    trace = " ".join(event["trace"])
    return judged(f"memory-{kind}", _TAKES, problems, {"text": text or "accepted", "trace": trace})
