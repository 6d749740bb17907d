"""Lists on the kernel of this machine: right ones, planted faults, a hang, a crash, what is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from harness.userfaultfd import Feature, probe_userfaultfd
from tests_functional.kernel import needs
from tests_functional.kernel.explore import acts, faults
from tests_functional.kernel.explore.__main__ import monitors, offered
from tests_functional.kernel.explore.campaign import REDUCTION_SECONDS, Campaign
from tests_functional.kernel.explore.draw import Drawer
from tests_functional.kernel.explore.executor import Record, Setting, run_list
from tests_functional.kernel.explore.limits import Limits
from tests_functional.kernel.explore.session import GAINED, HANG, KILLED, LOST, SPIN, UNREPORTED, Session
from tests_functional.kernel.explore.steps import MemoryList, Monitor, Step
from tests_functional.kernel.explore.worker import Patience, Worker

_NEEDED = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.WP_UNPOPULATED
pytestmark = pytest.mark.skipif(
    not probe_userfaultfd().opened_by or bool(needs.missing_features(int(_NEEDED))),
    reason="The kernel does not offer this user all that lists need.",
)

_ALL = {"on": "anon", "first": 0, "count": 16}
_PROTECTED = (
    Step("fill", {**_ALL, "pattern": "each", "value": 1}),
    Step("register", {**_ALL, "mode": 2}),
    Step("protect", _ALL),
)
_QUICK = Patience(waits=0.75, spins=0.5, most=60)


def _run(*steps: Step, setting: Setting | None = None, monitor: Monitor | None = None) -> Record:
    with Worker(setting or Setting(), _QUICK) as worker:
        return worker.run(MemoryList(monitor or Monitor(), steps))


@pytest.mark.parametrize("on", ["anon", "thp", "shmem", "memfd-private"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_right_kernel_passes(on: str, asynchronous: bool) -> None:
    """Protected pages of each kind, after writes, a release, advice and a fork."""
    steps = [
        Step(step.kind, {**step.arguments, "on": on})
        for step in (
            *_PROTECTED,
            Step("release", {**_ALL, "first": 3, "count": 2}),
            Step("write", {**_ALL, "first": 2, "count": 3, "value": 2, "way": "thread"}),
            Step("dontneed", {**_ALL, "first": 8, "count": 1}),
            Step("read", {**_ALL, "first": 8, "count": 1}),
            Step("scan", {**_ALL, "protect": True}),
        )
    ]
    record = _run(*steps, Step("fork", {"stays": False}), monitor=Monitor(asynchronous=asynchronous))
    assert (record.code, record.error, record.at) == ("", False, len(steps) + 1), record.sentence
    assert record.checked > 100
    assert any(name.startswith(f"dontneed in {on}:page+wp") for name in record.reached)


@pytest.mark.parametrize(
    "name", ["last-page-unprotected", "event-dropped", "event-of-other-page", "write-seen-early"]
)
def test_planted_fault_shows(name: str) -> None:
    """Each is named by one of its codes."""
    planted = faults.PLANTED[name]
    setting = Setting(binding=planted.binding, watcher=planted.watcher)
    record = _run(*_PROTECTED, Step("write", {**_ALL, "value": 2, "way": "store"}), setting=setting)
    assert record.code in planted.codes, record.sentence


def test_hang_names_its_step() -> None:
    """A writer whose event is not answered waits for a page; the fourth step is said."""
    setting = Setting(watcher=faults.PLANTED["event-unanswered"].watcher)
    record = _run(*_PROTECTED, Step("write", {**_ALL, "value": 2, "way": "store"}), setting=setting)
    assert (record.code, record.at) == (HANG, 3)
    assert "Step 4" in record.sentence


def test_spin_names_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that uses processor time in the kernel alone spins."""

    def spin(_session: Session, _given: object) -> None:
        descriptor = os.open("/dev/zero", os.O_RDONLY)
        buffer = bytearray(64 << 20)
        while True:
            os.readv(descriptor, [buffer])

    monkeypatch.setitem(acts.ACTS, "guard", spin)
    record = _run(*_PROTECTED, Step("guard", _ALL))
    assert (record.code, record.at) == (SPIN, 3)


def test_signal_of_an_allowed_access_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGBUS and SIGSEGV blame the kernel, other ends do not; the worker can be used again."""

    def die(number: int) -> acts.Act:
        def act(_session: Session, _given: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        return act

    for number, code, error in ((signal.SIGBUS, KILLED, False), (signal.SIGTERM, "", True)):
        monkeypatch.setitem(acts.ACTS, "guard", die(number))
        with Worker(Setting(), _QUICK) as worker:
            record = worker.run(MemoryList(Monitor(), (*_PROTECTED, Step("guard", _ALL))))
            assert (record.code, record.error) == (code, error), record.sentence
            assert not worker.run(MemoryList(Monitor(), _PROTECTED)).code


def test_slow_step_has_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that sleeps is neither a hang nor a spin."""
    monkeypatch.setitem(acts.ACTS, "guard", lambda *_: time.sleep(60))
    with Worker(Setting(), Patience(waits=0.5, spins=0.5, most=1.5)) as worker:
        record = worker.run(MemoryList(Monitor(), (*_PROTECTED, Step("guard", _ALL))))
    assert (record.code, record.error) == ("", True)


def test_kernel_that_takes_protection_away_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the split of a huge page does that takes it from pages of zeros (9658d698a8a8 mends it)."""

    def cold(session: Session, given: dict[str, object]) -> None:
        for page in session.pages(given):
            if all(state.value == 0 and state.wp for state in page.states):
                session.uffd.write_protect(page.address, 4096, protect=False)

    monkeypatch.setitem(acts.ACTS, "cold", cold)
    drawer = Drawer(frozenset({"cold", "read", "release", "scan"}), monitors())
    campaign = Campaign(drawer, Setting(), _QUICK, 2)
    with Worker(Setting(), _QUICK) as worker:
        for number in range(500):
            steps = drawer.draw(f"2:{number}", campaign.coverage)
            record = campaign.take(worker, steps)
            if record.code:
                break
    assert record.code in (LOST, UNREPORTED, GAINED), record.sentence
    found, shown = campaign.reduce(steps, record, "", Limits(None, None, 60))
    reduced = found.steps
    assert shown.signature == record.signature
    assert shown.at == len(reduced.steps) - 1
    assert [step.kind for step in reduced.steps][-1] == "cold"
    assert len(reduced.steps) <= 5, reduced.words


def test_list_leaves_nothing_behind() -> None:
    """No descriptor, no mapping and no child stays in the process."""
    steps = MemoryList(
        Monitor(),
        (
            *_PROTECTED,
            Step("fork", {"stays": True}),
            Step("mremap", {**_ALL, "first": 4, "count": 3}),
            Step("munmap", {**_ALL, "first": 5, "count": 1}),
            Step("mmap", {**_ALL, "first": 9, "count": 2}),
            Step("fill", {"on": "memfd-private", "first": 0, "count": 16, "pattern": "same", "value": 2}),
        ),
    )
    assert not run_list(steps, Setting()).code
    before = (len(list(Path("/proc/self/fd").iterdir())), _mapped())
    for _ in range(5):
        record = run_list(steps, Setting())
        assert not record.code, record.sentence
    assert (len(list(Path("/proc/self/fd").iterdir())), _mapped()) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _mapped() -> int:
    return Path("/proc/self/maps").read_text().count("explored")


def test_campaign_is_quiet_on_this_kernel() -> None:
    """A hundred lists of every kind show nothing that is not known."""
    drawer = Drawer(offered(ksm=False) - {"guard", "compact"}, monitors())
    campaign = Campaign(drawer, Setting(), Patience(), 77)
    events = list(campaign.explore(Limits(60, 100, REDUCTION_SECONDS)))
    assert [event for event in events if event["event"] == "finding" and not event["known"]] == []
    assert events[-1]["lists"] == 100 or events[-1]["seconds"] >= 60
    assert events[-1]["checked"] > 1000
    assert len(events[-1]["corpus"]) > 20
