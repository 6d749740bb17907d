"""An invented run with every kind of result, and its folder, for tests of the page."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from harness.status import Status, exit_code, worst

ENVIRONMENT = {
    "host_kernel": "6.18.44 #1 SMP",
    "host_architecture": "x86_64",
    "host_cpus": 2,
    "qemu": "10.0.13 (Debian)",
    "qemu_executable": "/usr/bin/qemu-system-x86_64",
    "accelerator": "tcg",
    "guest_image": "default",
    "guest_image_digest": "024d978d",
}


def check(name: str, status: str, **more: Any) -> dict[str, Any]:
    """Return a check as results.json has it."""
    return {
        "name": name, "status": status, "explanation": f"What {name} demands.", "reason": "", "total": 0,
        "facts": {}, "ranges": [], "violations": [], **more,
    }  # fmt: skip


def violations(number: int) -> list[dict[str, Any]]:
    """Return violations of pages that are newer than T0."""
    return [
        {
            "check": "write-order",
            "sentence": f"Page {page} of agent thread 0 is newer than T0.",
            "block": "pc.ram",
            "offset": page * 4096,
            "gpa": page * 4096,
            "file_offset": 9 + page * 4104,
            "expected": "generation 1",
            "found": "generation 2",
            "hexdump": "expected +0x020: 01 00\nfound    +0x020: 02 00",
        }
        for page in range(number)
    ]


def test(name: str, status: str = "PASS", **more: Any) -> dict[str, Any]:
    """Return a test as results.json has it."""
    return {
        "name": name, "status": status, "sentence": f"{name} is {status}.", "seconds": 1.5,
        "checks": [check("golden", "PASS")], "figures": {}, "environment": dict(ENVIRONMENT),
        "folder": f"tests/{name}", **more,
    }  # fmt: skip


test.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where it is imported


def failing(name: str = "snapshot.live", number: int = 1000) -> dict[str, Any]:
    """Return a test that failed its write-order check."""
    ranges = [{"block": "pc.ram", "start": 0, "end": number * 4096, "pages": number}]
    bad = check("01-live/write-order", "FAIL", total=24_353, violations=violations(number), ranges=ranges)
    figures = {
        "01-live/stun_ms": 2.2,
        "01-live/largest_write_stall_us": 5987,
        "01-live/file_bytes": 522_747_132,
    }
    return test(name, "FAIL", checks=[check("01-live/header", "PASS"), bad], figures=figures)


def run(*tests: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the content of a results.json."""
    statuses = [Status(one["status"]) for one in tests]
    found = Counter(statuses)
    overall = worst(statuses)
    return {
        "schema": 1,
        "status": overall.value if overall else "NONE",
        "exit_code": exit_code(statuses),
        "counts": {status.value: found[status] for status in Status if found[status]},
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 59.0,
        "command": ["/usr/bin/snapproof", "run", "--profile", "smoke", "--seed", "5"],
        "environment": dict(ENVIRONMENT),
        "tests": list(tests),
        **more,
    }


def every_kind() -> dict[str, Any]:
    """Return a run of two QEMUs with every status."""
    known = check("failures/x/end", "XFAIL", known_issue="F8", reason="known issue F8: it is so", total=1)
    gone = check("failures/x/end", "XPASS", known_issue="F8", reason="known issue F8 did not show")
    evidence = {"command": ["qemu", "a b"], "exit_code": -6, "log_tail": "one\ntwo", "paths": ["/tmp/x"]}
    old = {**ENVIRONMENT, "qemu": "7.2.22 (Debian)"}
    tests = [
        {**failing("new/snapshot.live"), "folder": "new/tests/snapshot.live"},
        test("new/snapshot.broken", "ERROR", checks=[], environment={**ENVIRONMENT, "evidence": evidence}),
        test("new/memory.gone", "MISS"),
        test("new/failures.fixed", "XPASS", checks=[gone]),
        test("new/failures.known", "XFAIL", checks=[known]),
        test("new/guests.measured", "DONE"),
        *(test(f"old/memory.plain-{number}", environment=old) for number in range(6)),
        *(
            test(f"old/hosts.{number}", "SKIP", sentence="This host has no KSM.", environment=old)
            for number in range(3)
        ),
    ]
    return run(*tests, environment={"new": ENVIRONMENT, "old": old})


def fill_folder(folder: Path, name: str = "new/tests/snapshot.live") -> Path:
    """Write the files of a test: logs, reproducer and a QMP log of one save."""
    place = folder / name
    place.mkdir(parents=True)
    (place / "test.log").write_text("log\n")
    (place / "console.log").write_text("")
    (place / "reproduce.sh").write_text(
        "#!/bin/sh\n# why\nexec snapproof run --seed 5 --filter snapshot.live\n"
    )
    (place / "qmp.jsonl").write_text(qmp_lines())
    return place


def qmp_lines(uri: str = "exec:cat > /r/tests/t/01-live/vmstate", begin: float = 1000.0) -> str:
    """Return the log of a background save begun at `begin`: stopped 5 ms later for 2 ms, complete at 1 s."""

    def event(name: str, at: float) -> dict[str, Any]:
        stamp = {"seconds": int(at), "microseconds": round(at % 1 * 1e6)}
        return {"time": at, "dir": "in", "msg": {"timestamp": stamp, "event": name}}

    def answer(at: float, **values: Any) -> dict[str, Any]:
        return {"time": at, "dir": "in", "msg": {"return": values, "id": "x"}}

    told = {"execute": "migrate", "arguments": {"uri": uri}}
    entries = [
        {"time": begin, "dir": "out", "msg": told},
        event("STOP", begin + 0.005),
        event("RESUME", begin + 0.007),
        answer(begin + 0.5, status="active", ram={"transferred": 1 << 20}),
        answer(begin + 1.0, status="completed", ram={"transferred": 2 << 20}),
        answer(begin + 1.1, status="completed", ram={"transferred": 2 << 20}),
    ]
    return "".join(json.dumps(entry) + "\n" for entry in entries)
