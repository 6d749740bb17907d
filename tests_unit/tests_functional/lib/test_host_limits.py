"""A limit of the machine makes a test an ERROR, before it or afterwards; wrong content stays a FAIL."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from harness.linux.cgroup import MemoryLimit
from harness.status import Status
from tests_functional.lib import host_limits
from tests_functional.lib.host_limits import require_limits, without_limits
from tests_functional.lib.outcome import Outcome
from validators.checks import Problem, judged

_LIMIT = judged("restore", "x", [Problem(Code.SETUP_LIMIT, "QEMU was killed by SIGKILL.")])
_SAVE = judged("save", "x", [Problem(Code.SAVE_FAILED, "The save failed: Broken pipe.")])
_WRONG = judged("golden", "x", [Problem(Code.GOLDEN_DIFFERS, "A page differs.")])


@pytest.mark.parametrize(
    ("checks", "killed", "status"),
    [
        ((_LIMIT,), 0, Status.ERROR),
        ((_LIMIT, _SAVE), 0, Status.ERROR),
        ((_SAVE,), 0, Status.FAIL),
        ((_SAVE,), 1, Status.ERROR),
        ((_WRONG,), 1, Status.FAIL),
        ((_LIMIT, _WRONG), 0, Status.FAIL),
    ],
)
def test_what_a_limit_explains(checks: tuple[object, ...], killed: int, status: Status) -> None:
    """A limit explains a process that ended or a call that failed under it, and no wrong page."""
    outcome = Outcome("x", Status.FAIL, "It failed.", checks=checks)  # type: ignore[arg-type]
    assert without_limits(outcome, killed).status is status


def test_a_pass_stays() -> None:
    """A test that passed is not touched."""
    outcome = Outcome("x", Status.PASS, "It passed.")
    assert without_limits(outcome, 3) is outcome


def test_a_control_group_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two guests of a test must fit."""
    limit = MemoryLimit(Path("/cg/memory.max"), 900 << 20, 0)
    monkeypatch.setattr(host_limits, "memory_limits", lambda: [limit])
    require_limits(256)
    with pytest.raises(SetupBroken, match=r"/cg/memory.max' is 900 MiB and .* need 1324 MiB") as caught:
        require_limits(512)
    assert caught.value.code is Code.SETUP_LIMIT
