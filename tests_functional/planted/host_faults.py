"""Plants what a kernel does that forgets write protection when it makes page table entries anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from harness.codes import Code
from harness.errors import SetupBroken
from harness.linux.process_memory import descriptor_of
from harness.userfaultfd import PAGE_BYTES, Userfaultfd
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.symptoms import Symptom
from tests_functional.memory.entries_anew import entries_anew
from tests_functional.planted.live_faults import LiveFault, judge_planted

_USERFAULTFD = "anon_inode:[userfaultfd]"
# Of each piece that the host was asked for; of pattern `sparse` half of them are pages of zeros.
_PAGES = 16


class LosesProtection:
    """Ends the protection of the first pages of each piece of RAM that it is told of.

    Attributes:
        acts: how often it did.
    """

    def __init__(self, pages: int = _PAGES) -> None:
        """Make a fault that has not acted yet, for so many pages of a piece."""
        self.acts, self._pages = 0, pages

    def __call__(self, pid: int, address: int) -> None:
        """Release the first pages of a piece by QEMU's own userfaultfd, if it has one.

        Raises:
            SetupBroken: the kernel refuses it.
        """
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if str(entry.readlink()) != _USERFAULTFD:
                continue
            try:
                with Userfaultfd.adopt(descriptor_of(pid, int(entry.name)), 0) as uffd:
                    uffd.write_protect(address, self._pages * PAGE_BYTES, protect=False)
            except OSError as error:
                raise SetupBroken(f"The fault cannot be planted: {error}.") from error
            self.acts += 1


def _fault(check: str, *codes: Code) -> LiveFault:
    return LiveFault(
        "the kernel forgets the protection of pages whose large page it splits",
        check,
        tuple(Symptom(code) for code in codes),
    )


HOST_FAULTS: Mapping[str, LiveFault] = {
    "entries": _fault("02-seeds/memory/*/protection-kept", Code.MEMORY_PROTECTION_LOST),
    "golden": _fault("02-seeds/golden", Code.GOLDEN_DIFFERS),
    "write-order": _fault("03-live/write-order", Code.WRITE_ORDER_NEWER, Code.WRITE_ORDER_TORN),
}
"""By the oracle that must see it."""


def planted_in_host(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that loses the protection of pages that the host splits, and passes if it is seen.

    Args:
        name: one of HOST_FAULTS.
    """

    def scenario(run: Run) -> Outcome:
        loses = LosesProtection()
        outcome = entries_anew("split", spoil=loses)(run)
        if not loses.acts:
            raise SetupBroken("QEMU had no userfaultfd to plant the fault by, so this run says nothing.")
        return judge_planted(run, f"lost-when-split-{name}", HOST_FAULTS[name], outcome, loses.acts)

    return scenario
