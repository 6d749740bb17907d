"""An invented bench.json: plausible figures of five ways of saving, the same each time."""

from __future__ import annotations

import math
import random
from typing import Any

SIZES = (256, 512, 1024, 2048, 4096)
WAYS = ("background-exec", "background-file", "stop-and-save", "savevm", "precopy-file")


def bench(repeats: int = 5) -> dict[str, Any]:
    """Return a bench.json, version 1: samples of each size and way, writer `all`, sink `unlimited`."""
    chance = random.Random(7)
    samples = [
        _sample(ram, way, repeat, chance) for repeat in range(1, repeats + 1) for ram in SIZES for way in WAYS
    ]
    return {
        "schema": 1,
        "bench": "downtime",
        "started": "2026-11-24T10:00:00+00:00",
        "seconds": 1234.5,
        "command": ["snapproof", "bench", "downtime"],
        "environment": {"host_kernel": "6.18.44", "qemu": "10.0.13", "accelerator": "tcg"},
        "samples": samples,
        "summary": [],
    }


def _sample(ram: int, way: str, repeat: int, chance: random.Random) -> dict[str, Any]:
    total = ram * 2.6 * chance.uniform(0.95, 1.1)
    background = way.startswith("background")
    stun = (2.2 + 0.3 * math.log2(ram / 256)) if background else 40 if way == "precopy-file" else ram * 0.85
    stun *= chance.uniform(0.85, 1.4)
    return {
        "ram_mib": ram,
        "way": way,
        "writer": "all",
        "sink": "unlimited",
        "repeat": repeat,
        "stun_ms": round(stun, 3),
        "downtime_ms": None if way == "savevm" else round(stun * 1.1, 3),
        "total_ms": round(total, 1),
        "size_bytes": int(
            ram * (1 << 20) * (1.02 if way != "precopy-file" else 1.7) * chance.uniform(0.97, 1)
        ),
        "guest_gap_ms": round(stun + 1, 3),
        "stall_us": {"p50": 3, "p99": 60, "p99.9": 300, "max": 9000},
        "stall_histogram": _stalls(background, stun, chance),
        "write_rate": _rate(background, stun, total, chance),
        "rss_growth_kib": 4096,
        "page_tables_growth_kib": 1024,
        "huge_before_kib": 0,
        "huge_after_kib": 0,
        "error": None,
    }


def _stalls(background: bool, stun: float, chance: random.Random) -> list[list[float]]:
    peak = [0, 400_000, 90_000, 2000, 300, 80, 20, 9, 4, 2, 1]
    if background:
        peak = [0, 300_000, 90_000, 60_000, 45_000, 22_000, 3000, 300, 40, 6, 2]
    found = [
        [2**power, 2 ** (power + 1), int(count * chance.uniform(0.8, 1.2))]
        for power, count in enumerate(peak)
    ]
    low = 2 ** int(math.log2(stun * 1000))
    return [*found, [low, 2 * low, 1]] if low > 1024 else found


def _rate(background: bool, stun: float, total: float, chance: random.Random) -> dict[str, Any]:
    times = list(range(-2000, int(total) + 2000, 100))
    pages = []
    for time in times:
        stopped = 0 <= time < stun - 50
        slow = 0.55 if background and 0 <= time < total else 1.0
        pages.append(0 if stopped else int(12_000 * slow * chance.uniform(0.9, 1.1)))
    return {"interval_ms": 100, "t_ms": times, "pages": pages}
