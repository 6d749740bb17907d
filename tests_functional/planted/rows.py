"""Lists which planted faults each profile runs; a green run of any other test relies on them."""

from __future__ import annotations

from tests_functional.beside_ram.kinds import guests_with
from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, QUICK_GUEST, SMALL, ProfileRow
from tests_functional.planted.foreign_faults import FOREIGN_FAULTS, LIVE_FOREIGN_FAULTS, LOST_PROTECTION
from tests_functional.planted.host_faults import HOST_FAULTS
from tests_functional.planted.live_faults import LIVE_FAULTS
from tests_functional.planted.ram_faults import RAM_FAULTS
from tests_functional.planted.step_faults import STEP_FAULTS, STEP_GUESTS

_TESTS = "planted/test_planted_faults.py:PlantedFaults"
_IN_PREMERGE = ("drop_protection", "lose_events")

# The only writer of a bare guest waits for the page whose event is lost, and QEMU, which goes on behind the
# last page that it was asked for, soon comes to that page. Another writer asks for pages elsewhere meanwhile.
_VCPUS = {"lose_events": 2}

# The only state beside RAM that write protection keeps as it was at T0.
_PROTECTED_STATE = "allocation-tags"

_ONE_EACH = tuple(
    ProfileRow(
        f"planted.{fault.replace('_', '-')}",
        f"{_TESTS}.test_fault",
        planted.reason,
        {"fault": fault, **({"vcpus": _VCPUS[fault]} if fault in _VCPUS else {})},
        profiles=PREMERGE if fault in _IN_PREMERGE else (),
        kinds=ANY_GUEST,
    )
    for fault, planted in LIVE_FAULTS.items()
)

ROWS = (
    *_ONE_EACH,
    *(
        ProfileRow(
            f"planted.foreign-{name}",
            f"{_TESTS}.test_in_foreign_writer",
            reason,
            {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST, "fault": name},
            kinds=ANY_GUEST,
        )
        for name, reason in (
            *((name, planted.reason) for name, planted in FOREIGN_FAULTS.items()),
            *(
                (name, f"{LOST_PROTECTION}: {planted.writer}{planted.check}")
                for name, planted in LIVE_FOREIGN_FAULTS.items()
            ),
        )
    ),
    *(
        ProfileRow(
            f"planted.{name.replace('_', '-')}",
            f"{_TESTS}.test_in_ram_blocks",
            planted.reason,
            {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST, "fault": name},
            kinds=ANY_GUEST,
        )
        for name, planted in RAM_FAULTS.items()
    ),
    *(
        ProfileRow(
            f"planted.{name}",
            f"{_TESTS}.test_in_step",
            planted.reason,
            {"ram_mib": 128, "coverage": 0.6, "guest": STEP_GUESTS.get(name, QUICK_GUEST), "fault": name},
            kinds=ANY_GUEST,
        )
        for name, planted in STEP_FAULTS.items()
    ),
    *(
        ProfileRow(
            f"planted.lost-when-split-{name}",
            f"{_TESTS}.test_in_host",
            f"{planted.reason}: {planted.check}",
            {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST, "fault": name},
            kinds=ANY_GUEST,
        )
        for name, planted in HOST_FAULTS.items()
    ),
    *(
        ProfileRow(
            f"planted.drop-protection-{pages}",
            f"{_TESTS}.test_in_host_pages",
            "the kernel protects huge pages by other code, and a test of them must see it fail too",
            {**SMALL, "fault": "drop_protection", "kind": pages},
            kinds=ANY_GUEST,
        )
        for pages in ("huge-pages-on", "huge-pages-off")
    ),
    *(
        ProfileRow(
            f"planted.report-success-{_PROTECTED_STATE}",
            f"{_TESTS}.test_beside_ram",
            "tags are in a RAMBlock that no vCPU maps, and a test of them must see it unprotected too",
            {
                "ram_mib": 128,
                "coverage": 0.7,
                "guest": guest.name,
                "fault": "report_success",
                "state": _PROTECTED_STATE,
            },
            kinds=ANY_GUEST,
        )
        for guest in guests_with(_PROTECTED_STATE)
    ),
)
