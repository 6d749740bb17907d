"""Contract: a QEMU that claims what it cannot do, or refuses without saying why, is seen."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from harness.errors import NotApplicable, SetupBroken
from harness.userfaultfd import UserfaultfdSupport
from tests_functional.refusals import uffd_restrictions
from tests_functional.refusals.denied import judge_open_mode, judge_reason, judge_refusal, judge_trace
from tests_functional.refusals.uffd_restrictions import UFFD_RESTRICTIONS, RestrictedRun, judge_probe
from tests_unit.support.scenario_values import make_run, sentences
from validators.faults.calls.control import Call, CallFault, Denial, call_control

_KERNEL = "Background-snapshot is not supported by host kernel"
# As QEMU 7.2 and 10.0 write them.
_TRACE_72 = "uffd_query_features_nosys errno: 38\n"
_TRACE_100 = "71@1763967973.2:uffd_detect_open_mode 2\n71@1763967973.3:uffd_query_features_nosys errno: 1\n"


def test_clear_refusal() -> None:
    """It names the capability and what is missing, and changes nothing."""
    assert sentences(judge_refusal(_KERNEL, changed=False)) == []


@pytest.mark.parametrize(
    ("words", "changed", "sentence"),
    [
        ("", False, "completes the save, though no page is protected"),
        ("Operation not permitted", False, "names neither the capability nor what is missing"),
        ("background-snapshot: Invalid argument", False, "names neither the capability nor what is missing"),
        ("The host kernel does not support this", False, "names neither the capability nor what is missing"),
        (_KERNEL, True, "has changed a setting"),
    ],
)
def test_wrong_refusal(words: str, changed: bool, sentence: str) -> None:
    """A claim of success, unclear words, and a refusal that leaves something behind."""
    (found,) = sentences(judge_refusal(words, changed))
    assert sentence in found


def test_permission_is_not_a_kernel_that_lacks_it() -> None:
    """If a permission is all that is missing, QEMU's words must not call userfaultfd unsupported."""
    assert sentences(judge_reason(_KERNEL, errno.ENOSYS)) == []
    assert sentences(judge_reason(_KERNEL, 0)) == []
    assert sentences(judge_reason("Background-snapshot: userfaultfd is not permitted", errno.EPERM)) == []
    (found,) = sentences(judge_reason(_KERNEL, errno.EPERM))
    assert found.startswith("The kernel forbids userfaultfd (EPERM), and QEMU calls it unsupported: 'Back")


def test_errno_is_in_the_trace() -> None:
    """The errno is found with and without QEMU's prefix of process and time."""
    assert sentences(judge_trace(_TRACE_72, errno.ENOSYS)) == []
    assert sentences(judge_trace(_TRACE_100, errno.EPERM)) == []


@pytest.mark.parametrize("text", ["", _TRACE_100, "other_event errno: 38\n", "uffd_x errno: 383\n"])
def test_errno_is_not_in_the_trace(text: str) -> None:
    """Silence, another errno, another trace point, and a number that only begins alike."""
    (found,) = sentences(judge_trace(text, errno.ENOSYS))
    assert found.startswith("QEMU's trace does not give ENOSYS (38) but: ")


def test_hidden_feature_has_no_errno() -> None:
    """The trace needs no errno if the kernel refuses nothing."""
    assert sentences(judge_trace("", 0)) == []


def test_use_of_the_device_is_seen() -> None:
    """The system call is another way, which this user must not have had."""
    assert sentences(judge_open_mode("71@1.2:uffd_detect_open_mode 1\n")) == []
    assert sentences(judge_open_mode(_TRACE_100)) != []


def test_each_restriction_is_of_one_sort() -> None:
    """Interposed, or by what QEMU runs behind; whoever is refused there must be told why."""
    for name, restriction in UFFD_RESTRICTIONS.items():
        assert restriction.reason, name
        assert bool(restriction.denial) != (restriction.prefix is not tuple), name
        assert bool(restriction.named) == (not restriction.denial and not restriction.device), name
        assert bool(restriction.late) == bool(restriction.denial), name


def _probe(monkeypatch: pytest.MonkeyPatch, call: UserfaultfdSupport, device: UserfaultfdSupport) -> None:
    def support(_prefix: Any, *, by_device: bool = True) -> UserfaultfdSupport:
        return device if by_device else call

    monkeypatch.setattr(uffd_restrictions, "support_under", support)


_OPEN = UserfaultfdSupport("/dev/userfaultfd", "", ())
_SHUT = UserfaultfdSupport("", "A seccomp filter or security module forbids userfaultfd (EPERM).", ())


def test_reason_that_our_probe_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right words pass, words for something else do not."""
    _probe(monkeypatch, _SHUT, _SHUT)
    (right,) = judge_probe((), UFFD_RESTRICTIONS["seccomp-eperm"])
    (wrong,) = judge_probe((), UFFD_RESTRICTIONS["unprivileged"])
    assert sentences(right) == []
    assert "does not name what forbids userfaultfd: 'A seccomp filter" in sentences(wrong)[0]


@pytest.mark.parametrize(
    ("name", "call", "device", "words"),
    [
        ("unprivileged", _OPEN, _SHUT, "by the system call"),
        ("unprivileged", _SHUT, _OPEN, "By /dev/userfaultfd a program gets one here"),
        ("device-only", _SHUT, _SHUT, "By /dev/userfaultfd a program gets none here"),
        ("device-only", _OPEN, _OPEN, "by the system call"),
    ],
)
def test_host_that_is_not_like_that(
    name: str,
    call: UserfaultfdSupport,
    device: UserfaultfdSupport,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test is skipped if the host lets a program through, since QEMU's acceptance would be right."""
    _probe(monkeypatch, call, device)
    with pytest.raises(NotApplicable, match=words):
        judge_probe((), UFFD_RESTRICTIONS[name])


def test_restriction_that_qemu_never_met(tmp_path: Path) -> None:
    """A library that is not loaded denies nothing, so the run says nothing about QEMU."""
    with call_control(tmp_path / "calls") as control:
        place = RestrictedRun(make_run(tmp_path), (), control, Denial({Call.CREATE: errno.ENOSYS}))
        with pytest.raises(SetupBroken, match="do not go through the preloaded library"), place.in_force():
            pass
        with control.armed(CallFault(Call.CREATE, 1, errno.EPERM)):
            assert not control.acted
