"""Contract: one real round of `snapproof bench downtime` measures every way, and each file is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guest_images.cache import Cache, default_cache_folder
from guest_images.provisioning import Provisioning
from snapproof.cli.command import main
from snapproof.runs.stack import find_qemu
from tests_functional.lib.measure.cases import Way
from tests_functional.lib.measure.memory_use import MemoryUse
from tests_functional.lib.measure.sample import Sample
from validators.faults.live.wrapper import faulty_qemu


@pytest.mark.vm
@pytest.mark.timeout(600)
def test_every_way_is_measured_on_a_real_guest(tmp_path: Path) -> None:
    """A guest of 256 MiB is saved once in each way that this QEMU has."""
    folder = tmp_path / "results"
    words = [
        "--ram",
        "256",
        "--writers",
        "all",
        "--sinks",
        "unlimited",
        "--repeats",
        "1",
        "--results",
        str(folder),
    ]
    assert main(["bench", "downtime", *words]) == 0
    found = json.loads((folder / "bench.json").read_text())
    left = {one["what"] for one in found["left_out"]}
    assert {sample["way"] for sample in found["samples"]} | left >= {way.value for way in Way}
    for sample in found["samples"]:
        assert sample["error"] is None
        assert 0 < sample["stun_ms"] <= sample["total_ms"] + 1
        assert sample["size_bytes"] > 100 << 20
        assert 0 < sample["stall_us"]["p50"] <= sample["stall_us"]["p99"] <= sample["stall_us"]["max"]
        assert sum(count for _, _, count in sample["stall_histogram"]) > 0
        rate = sample["write_rate"]
        assert {-500, 0, 500} <= set(rate["t_ms"])
        assert len(rate["t_ms"]) == len(rate["pages"])
        if sample["way"] != Way.SAVEVM.value:
            assert sample["judged"] == "structure and write order are right"
    # No large file is left.
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 10 << 20


@pytest.mark.vm
@pytest.mark.timeout(600)
def test_pre_copy_that_never_ends_is_given_up(tmp_path: Path) -> None:
    """The guest is stopped if the sink is slower than its writers; the file is right and bounded."""
    folder = tmp_path / "results"
    words = ["--ram", "256", "--ways", "precopy-file", "--writers", "all", "--sinks", "throttled"]
    words += ["--throttle", "40", "--repeats", "1", "--results", str(folder)]
    assert main(["bench", "downtime", *words]) == 0
    (sample,) = json.loads((folder / "bench.json").read_text())["samples"]
    assert sample["given_up"]
    assert sample["judged"] == "structure and write order are right"
    assert 3 * 256 << 20 < sample["size_bytes"] < 5.1 * 256 * (1 << 20)
    assert sample["stun_ms"] > 1000


def _silent(_text: str) -> None:
    """Ignore the message."""


@pytest.mark.vm
@pytest.mark.timeout(600)
def test_wrong_snapshot_is_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A QEMU that protects nothing writes a wrong file, so its figures do not count."""
    cache = Cache(default_cache_folder())
    qemu = find_qemu(None, Provisioning(cache, _silent))
    faulty = faulty_qemu("report_success", qemu.executable, tmp_path, Provisioning(cache, _silent))
    words = ["--ram", "256", "--ways", "background-exec", "--writers", "all", "--sinks", "unlimited"]
    words += ["--repeats", "1", "--qemu", str(faulty.executable), "--results", str(tmp_path / "results")]
    assert main(["bench", "downtime", *words]) == 1
    (sample,) = json.loads((tmp_path / "results" / "bench.json").read_text())["samples"]
    assert "newer than T0" in sample["error"]
    assert "Nothing was measured" in capsys.readouterr().out


def test_growth_is_known_only_with_memory_before_and_after() -> None:
    """A sample that lacks one of them, because its save failed, has no growth."""
    before, after = MemoryUse(100, 10, 4), MemoryUse(150, 30, 4)
    named = (256, "background-exec", "all", "unlimited", 1)
    whole = Sample(*named, memory_before=before, memory_after=after)
    assert whole.rss_growth_kib == after.resident - before.resident
    assert whole.page_tables_growth_kib == after.page_tables - before.page_tables
    for part in (Sample(*named, memory_before=before), Sample(*named, memory_after=after), Sample(*named)):
        assert (part.rss_growth_kib, part.page_tables_growth_kib) == (None, None)
