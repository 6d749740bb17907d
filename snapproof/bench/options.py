"""The options of the benchmarks as frozen values, which snapproof.cli makes from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snapproof.runs.options import HostOptions, StackOptions


@dataclass(frozen=True)
class DowntimeOptions:
    """The options of `snapproof bench downtime`; lists are as given, with commas, None for the default.

    Attributes:
        stack: QEMU, guest and accelerator.
        ram: guest sizes in MiB.
        ways: ways of saving.
        writers: writers in the guest.
        sinks: sinks of the stream.
        throttle: MiB per second of the throttled sink.
        repeats: samples of each case.
        quick: whether to measure less.
        plan: whether only to print the plan.
        results: new folder for the results, None for the default.
        seed: of the orders of samples and writes, None for a random one.
        json: file for a copy of the results.
        max_growth: factor by which the stun by background-exec may grow, None for any.
    """

    stack: StackOptions
    ram: str | None
    ways: str | None
    writers: str | None
    sinks: str | None
    throttle: float
    repeats: int
    quick: bool
    plan: bool
    results: Path | None
    seed: int | None
    json: Path | None
    max_growth: float | None


@dataclass(frozen=True)
class FaultsOptions:
    """The options of `snapproof bench faults`.

    Attributes:
        stack: for a guest that is saved here.
        hosts: for a QEMU, or a guest that is saved, on another host.
        pid: process of a running QEMU, None to start one.
        seconds: how long to watch that process.
        host: where the QEMU runs, as given; None for here.
        ram: of the guest here, in MiB.
        writer: name of the writer in the guest here.
        results: new folder for logs, None for the default.
        json: file for the histograms.
    """

    stack: StackOptions
    hosts: HostOptions
    pid: int | None
    seconds: float
    host: str | None
    ram: int
    writer: str
    results: Path | None
    json: Path | None


@dataclass(frozen=True)
class ValidatorOptions:
    """The options of `snapproof bench validator`.

    Attributes:
        stack: QEMU and guest of the files that are made.
        file: a vmstate file, None to make some.
        golden: its golden image.
        make: names of the files that are made, with commas; None for all of them.
        versus: commands of other readers, with {file} for the file.
        repeat: timed runs of each.
        json: file for every figure.
    """

    stack: StackOptions
    file: Path | None
    golden: Path | None
    make: str | None
    versus: tuple[str, ...]
    repeat: int
    json: Path | None


@dataclass(frozen=True)
class AbOptions:
    """The options of `snapproof bench ab`.

    Attributes:
        stack: for guests on this host; its `qemu` is None.
        a: the fixed baseline, a QEMU or a host; None for the default QEMU.
        b: the side that is judged, None for A again.
        qemu: the QEMU for VMs.
        host_qemu: path of a QEMU that is on a lab machine.
        host_accel: accelerator of x86 VMs.
        metric: the figure that is compared.
        max_regression: share by which B may be worse.
        pairs: saves of each side before the first look at the interval.
        max_pairs: saves of each side at most.
        plant_slowdown: share by which B is made worse.
        self_check: number of gates of each kind for the self-check, None for an ordinary gate.
        writer: name of the writer in the guest on this host, None for AB_WRITER.
        ram: RAM of the guest on this host in MiB, None for AB_RAM_MIB.
        seed: of the order of runs and of writes.
        json: file for figures and verdict.
        results: new folder for the results, None to keep none.
    """

    stack: StackOptions
    a: str | None
    b: str | None
    qemu: str | None
    host_qemu: str | None
    host_accel: str | None
    metric: str
    max_regression: float
    pairs: int
    max_pairs: int
    plant_slowdown: float | None
    self_check: int | None
    writer: str | None
    ram: int | None
    seed: int
    json: Path | None
    results: Path | None
