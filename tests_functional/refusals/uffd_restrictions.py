"""Lists the ways in which a host denies userfaultfd to QEMU, and starts a QEMU under each of them."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.codes import Code
from harness.errors import NotApplicable, SetupBroken
from harness.linux.confined import (
    confining_wrapper,
    filtered,
    open_to_nobody,
    opens,
    support_under,
    unprivileged,
)
from harness.linux.kvm import DEVICE
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.faults.calls.control import Call, CallControl, Denial, call_control, controlled_qemu
from validators.verdict import CheckResult

_NAMED = "Our own probe, run under the same restriction, names the reason."
# linux/userfaultfd.h, UFFD_FEATURE_PAGEFAULT_FLAG_WP
_WRITE_PROTECT = 1


@dataclass(frozen=True)
class UffdRestriction:
    """A way in which a host denies userfaultfd to QEMU.

    Attributes:
        reason: why it is tested.
        error: errno of the kernel's refusal when the capability is set, 0 if QEMU does not see one.
        late: errno of its refusal when a save starts whose capability was set before, 0 if there is none.
        denial: the calls that an interposed library denies; this can be lifted while QEMU runs.
        prefix: makes a command prefix that QEMU runs behind; this cannot be lifted.
        named: regular expression for the reason that our own probe gives behind that prefix.
        device: whether a QEMU that knows /dev/userfaultfd can open it all the same.
    """

    reason: str
    error: int
    late: int = 0
    denial: Denial | None = None
    prefix: Callable[[], tuple[str, ...]] = tuple
    named: str = ""
    device: bool = False


def _interposed(reason: str, error: int, opening: int) -> UffdRestriction:
    calls = {Call.CREATE: error, Call.CREATE_BY_DEVICE: error, Call.OPEN_DEVICE: opening}
    return UffdRestriction(reason, error, error, Denial(calls))


UFFD_RESTRICTIONS: Mapping[str, UffdRestriction] = {
    "enosys": _interposed("a kernel that was built without userfaultfd", errno.ENOSYS, errno.ENOENT),
    "eperm": _interposed("a security module or an old sysctl forbids it", errno.EPERM, errno.EACCES),
    "no-write-protect": UffdRestriction(
        "userfaultfd without write protection, as before Linux 5.7 or on arm64 before 6.10",
        error=0,
        late=errno.EINVAL,
        denial=Denial(hidden=_WRITE_PROTECT),
    ),
    "seccomp-eperm": UffdRestriction(
        "container engines and systemd filter it so",
        errno.EPERM,
        prefix=lambda: filtered(errno.EPERM),
        named=r"seccomp filter or security module .*EPERM",
    ),
    "seccomp-enosys": UffdRestriction(
        "newer filters answer as if the kernel had no such call",
        errno.ENOSYS,
        prefix=lambda: filtered(errno.ENOSYS),
        named=r"seccomp filter .*ENOSYS",
    ),
    "unprivileged": UffdRestriction(
        "an ordinary user's QEMU on a kernel with its default settings (since Linux 5.11)",
        errno.EPERM,
        prefix=lambda: unprivileged(opens_device=False),
        named=r"vm\.unprivileged_userfaultfd is 0.*/dev/userfaultfd",
    ),
    "device-only": UffdRestriction(
        "an ordinary user's QEMU that was given the device, as management software does since QEMU 8.0",
        errno.EPERM,
        prefix=lambda: unprivileged(opens_device=True),
        device=True,
    ),
}


@dataclass(frozen=True)
class RestrictedRun:
    """A run whose QEMU gets no userfaultfd, or can be denied it.

    Attributes:
        run: the run with that QEMU.
        checks: checks of the restriction itself.
        control: control of the interposed library, None if the restriction cannot be lifted.
        denial: the calls that the library denies.
    """

    run: Run
    checks: tuple[CheckResult, ...]
    control: CallControl | None = None
    denial: Denial = field(default_factory=Denial)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Put the restriction in force for a `with` block, in which QEMU must meet it; lift it afterwards.

        Raises:
            SetupBroken: QEMU made no call that was denied.
        """
        if self.control is None:
            yield
            return
        with self.control.denied(self.denial):
            yield
            if not (self.control.loaded and self.control.acted):
                raise SetupBroken(
                    "QEMU's userfaultfd calls do not go through the preloaded library, so none can be denied."
                )


@contextmanager
def restricted(run: Run, restriction: UffdRestriction) -> Iterator[RestrictedRun]:
    """Yield the run with a QEMU under the restriction, or with one that can be put under it.

    Raises:
        NotApplicable: this host cannot impose the restriction.
    """
    executable = run.stack.executable
    if restriction.denial:
        with call_control(run.folder / "calls") as control:
            qemu = controlled_qemu(executable, run.folder / "calls", run.provisioning)
            yield RestrictedRun(_with_qemu(run, qemu), (), control, restriction.denial)
        return
    prefix = restriction.prefix()
    if run.stack.accel.startswith("kvm") and not opens(prefix, DEVICE):
        raise NotApplicable(
            f"Under this restriction QEMU may not open {DEVICE}, whose mode allows it to others only; use "
            "--accel tcg."
        )
    checks = judge_probe(prefix, restriction)
    qemu = confining_wrapper(prefix, executable, run.folder)
    with open_to_nobody(run.folder):
        yield RestrictedRun(_with_qemu(run, qemu), checks)


def _with_qemu(run: Run, qemu: Path) -> Run:
    return replace(run, stack=replace(run.stack, executable=qemu))


def judge_probe(prefix: Sequence[str], restriction: UffdRestriction) -> tuple[CheckResult, ...]:
    """Check the reason that our own probe gives under a command prefix.

    Raises:
        NotApplicable: this host cannot impose the restriction.
    """
    support = support_under(prefix, by_device=False)
    if support.opened_by:
        raise NotApplicable("On this host a program gets a userfaultfd by the system call all the same.")
    by_device = support_under(prefix).opened_by != ""
    if by_device != restriction.device:
        gets = "gets one" if by_device else "gets none"
        raise NotApplicable(f"By /dev/userfaultfd a program {gets} here. {support.reason}")
    if restriction.device:
        return ()
    facts = {"reason": support.reason}
    problems = []
    if not re.search(restriction.named, support.reason):
        problems.append(
            Problem(
                Code.REFUSAL_PROBE_UNCLEAR,
                f"The probe does not name what forbids userfaultfd: '{support.reason}'.",
            )
        )
    return (judged("probe", _NAMED, problems, facts),)
