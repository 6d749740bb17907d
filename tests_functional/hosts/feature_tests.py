"""Copies the kernel's feature tests to a host, runs them there, and returns their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.deadline import Deadline
from harness.errors import Evidence, SetupBroken
from harness.hosts.host import Host

Event = dict[str, Any]

_ROOT = Path(__file__).parents[2]
# The files that the tests need. They run with Python 3.9 and nothing else.
_CARRIED = (
    "harness/__init__.py",
    "harness/plural.py",
    "harness/linux/__init__.py",
    "harness/linux/kernel_log.py",
    "harness/userfaultfd/*.py",
    "tests_functional/__init__.py",
    "tests_functional/kernel/**/*.py",
)
_HELPER = "segv.so"
_RUNNER = "tests_functional.kernel"
_CARRY_SECONDS = 120.0
# Python compiles what it imports, at the first time: 4 s of processor time in an emulated VM. One of arm64
# beside other VMs was seen to need more than a minute.
_PROBE_SECONDS = 240.0
_PROBE = """\
import errno, json, os
from harness.userfaultfd import Feature, Mode, Region, Userfaultfd, UserfaultfdError, create, feature_names
from harness.userfaultfd import offered_features, probe_userfaultfd, protected_pages
def refusal(action):
    try:
        action()
    except UserfaultfdError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""
def ask():
    descriptor, _ = create.by_any()
    try:
        create.handshake(descriptor, int(Feature.PAGEFAULT_FLAG_WP))
    finally:
        os.close(descriptor)
def register():
    with Region.anonymous(1 << 16) as region, Userfaultfd(0) as uffd:
        uffd.register(region.address, region.length, Mode.WP)
def shown():
    wp = int(Feature.PAGEFAULT_FLAG_WP)
    try:
        with Region.anonymous(1 << 16) as region, Userfaultfd(wp) as uffd:
            region.fill(1)
            uffd.register(region.address, region.length, Mode.WP)
            uffd.write_protect(region.address, region.length)
            return bool(protected_pages(region.address, region.length))
    except UserfaultfdError:
        # A user who may not trap the kernel; nothing is poisoned for them.
        return True
found = probe_userfaultfd()
mask = int(offered_features()) if found.opened_by else 0
print(json.dumps({
    "opened_by": found.opened_by, "reason": found.reason, "mask": mask, "names": list(feature_names(mask)),
    "ask": refusal(ask), "register": refusal(register),
    "shows_protection": bool(mask & int(Feature.PAGEFAULT_FLAG_WP)) and shown(),
}))
"""


@dataclass(frozen=True)
class HostFeatures:
    """The userfaultfd features of a host's kernel.

    Attributes:
        opened_by: `system call` or `/dev/userfaultfd`, empty if neither works.
        reason: why neither works, empty if one does.
        mask: bit mask of the features that the kernel offers.
        names: names of these features.
        ask: name of the errno with which the kernel refuses write protection at the handshake, empty if it
            accepts.
        register: name of the errno with which it refuses to register memory for write protection that was
            not asked for at the handshake, empty if it accepts.
        shows_protection: whether pagemap shows which pages are protected (Linux 5.14).
    """

    opened_by: str
    reason: str
    mask: int
    names: tuple[str, ...]
    ask: str
    register: str
    shows_protection: bool = True

    @property
    def write_protect(self) -> bool:
        """Whether a background snapshot can work."""
        return "PAGEFAULT_FLAG_WP" in self.names

    def deviation(self, expected: int) -> str:
        """Return how the mask differs from the expected one, empty if they are equal."""
        if self.mask == expected:
            return ""
        bits = [f"{'+' if self.mask >> bit & 1 else '-'}bit {bit}" for bit in range(64)
                if (self.mask ^ expected) >> bit & 1]  # fmt: skip
        return f"{self.mask:#x} instead of {expected:#x} ({', '.join(bits)})"


def carried_sources() -> dict[str, bytes]:
    """Return the Python files of the feature tests, by their places in the host's folder."""
    paths = [path for pattern in _CARRIED for path in sorted(_ROOT.glob(pattern))]
    return {str(path.relative_to(_ROOT)): path.read_bytes() for path in paths}


def carry_tests(
    host: Host, helper: Path | None = None, compiled: Mapping[str, Path] = MappingProxyType({})
) -> None:
    """Copy the feature tests to the host's folder.

    Args:
        host: the host.
        helper: the library of tests_functional/kernel/trackers/segv.c for its architecture, None for none.
        compiled: files that its Python made of `carried_sources`, by their places beside these; what is not
            there, the host compiles itself.

    Raises:
        SetupBroken: see `Host.put`.
    """
    files: dict[str, bytes | Path] = {**carried_sources(), **compiled}
    if helper is not None:
        files[_HELPER] = helper
    host.put(files, Deadline(_CARRY_SECONDS))


def probe_features(host: Host) -> HostFeatures:
    """Probe the features of a host to which the tests have been copied.

    Raises:
        SetupBroken: the probe failed on the host.
    """
    answer = json.loads(host.check([host.python, "-c", _PROBE], Deadline(_PROBE_SECONDS)).stdout)
    return HostFeatures(**{**answer, "names": tuple(answer["names"])})


def run_feature_tests(
    host: Host,
    deadline: Deadline,
    arguments: Sequence[str] = (),
    *,
    helper: bool = False,
    module: str = _RUNNER,
    told: Callable[[Event], None] = lambda _: None,
) -> tuple[Event, ...]:
    """Run the tests on a host to which they have been copied.

    Args:
        host: the host.
        deadline: for all tests together.
        arguments: options of the runner, e.g. `--filter` and `--prepare`.
        helper: whether the library was copied too.
        module: the runner.
        told: called with each event as it arrives.

    Returns:
        All events, the last of which is "end".

    Raises:
        SetupBroken: the runner ended before its last event; also as for `Host.run`.
    """
    argv = [host.python, "-m", module, "--json-lines", *arguments]
    if helper:
        argv += ["--helper", str(host.folder / _HELPER)]
    events: list[Event] = []
    left = bytearray()

    def take(data: bytes) -> None:
        left.extend(data)
        *lines, rest = bytes(left).split(b"\n")
        left[:] = rest
        for line in lines:
            events.append(json.loads(line))
            told(events[-1])

    done = host.run(argv, deadline, on_output=take)
    if not events or events[-1].get("event") != "end":
        tail = done.stderr.decode(errors="replace")[-2000:]
        raise SetupBroken(
            f"The runner of the feature tests on the host '{host.name}' ended before its last result (exit "
            f"code {done.exit_code}); its standard error says why.",
            Evidence(argv, done.exit_code, tail),
        )
    return tuple(events)
