"""Reads the baseline of the device sweep: explained differences, and how many devices are expected."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.codes import Code
from validators.checks import Problem

BASELINE = Path(__file__).parent / "baseline.toml"


@dataclass(frozen=True)
class Explained:
    """A difference that has a reason, which is no defect.

    Attributes:
        name: of the reason, unique.
        reason: in one sentence.
        codes: of the problems that it explains.
        fields: shell patterns of device fields, or of RAMBlocks; empty for problems that are about none.
        devices: shell patterns of the devices that it is about.
        seen: prefixes of the versions of QEMU on which it was seen.
        machines: machine types on which it was seen, empty for any.
        accelerators: with which it was seen, empty for any.
        sometimes: whether it may be absent from a sweep.
    """

    name: str
    reason: str
    codes: tuple[Code, ...]
    fields: tuple[str, ...]
    devices: tuple[str, ...]
    seen: tuple[str, ...]
    machines: tuple[str, ...]
    accelerators: tuple[str, ...]
    sometimes: bool

    def applies(self, version: str, machine: str, accelerator: str) -> bool:
        """Return whether it was seen on that version of QEMU, that machine type and that accelerator."""
        return (
            version.startswith(self.seen)
            and (not self.machines or machine in self.machines)
            and (not self.accelerators or accelerator in self.accelerators)
        )

    def fits(self, problem: Problem) -> bool:
        """Return whether it explains a problem; of devices that are in one guest ("a+b") it may be of one."""
        about = str(problem.fields.get("field", problem.fields.get("block", "")))
        devices = str(problem.fields.get("device", "")).split("+")
        return (
            problem.code in self.codes
            and (not about or any(fnmatchcase(about, pattern) for pattern in self.fields))
            and any(fnmatchcase(device, pattern) for device in devices for pattern in self.devices)
        )


@dataclass(frozen=True)
class Baseline:
    """What is known of a QEMU's devices on a machine type.

    Attributes:
        explained: the differences with a reason.
        created: how many devices were created when it was written, None where nobody counted.
    """

    explained: tuple[Explained, ...]
    created: int | None

    def reason(self, problem: Problem) -> Explained | None:
        """Return what explains a problem, None if nothing does."""
        return next((one for one in self.explained if one.fits(problem)), None)

    def unexplained(self, problems: Iterable[Problem]) -> list[Problem]:
        """Return the problems that nothing explains."""
        return [problem for problem in problems if self.reason(problem) is None]


def load_baseline(version: str, machine: str, accelerator: str, path: Path = BASELINE) -> Baseline:
    """Return the part of the baseline that applies to a version of QEMU, a machine type and an accelerator.

    Raises:
        ValueError: an entry names a code that does not exist.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    explained = [_explained(entry) for entry in content["explained"]]
    counts = [
        entry["created"]
        for entry in content["expected"]
        if version.startswith(entry["qemu"]) and machine == entry["machine"]
    ]
    applying = tuple(one for one in explained if one.applies(version, machine, accelerator))
    return Baseline(applying, int(counts[0]) if counts else None)


def _explained(entry: Mapping[str, Any]) -> Explained:
    return Explained(
        name=entry["name"],
        reason=entry["reason"],
        codes=tuple(Code.of(code) for code in entry.get("codes", [Code.DEVICES_DIFFERS])),
        fields=tuple(entry.get("fields", ())),
        devices=tuple(entry.get("devices", ("*",))),
        seen=tuple(entry["seen"]),
        machines=tuple(entry.get("machines", ())),
        accelerators=tuple(entry.get("accelerators", ())),
        sometimes=bool(entry.get("sometimes", False)),
    )
