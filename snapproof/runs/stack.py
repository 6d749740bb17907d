"""Prepares the stack that the command line asks for: QEMU, guest and accelerator."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from guest_images.cache import Cache, Log, default_cache_folder, publish_file
from guest_images.catalogue import DEFAULT_QEMU, QEMUS
from guest_images.guests.image import build_guest
from guest_images.guests.init_script import READY_LINE
from guest_images.provisioning import Provisioning
from guest_images.qemu.builds import provision_qemu
from harness.deadline import Deadline, patience
from harness.errors import MachineryMissing, SetupBroken, UsageError
from harness.hosts.local import local_facts
from harness.hosts.spec import LOCAL
from harness.linux.kvm import KvmKind, find_kvm
from harness.linux.loopback import require_loopback
from harness.qemu.accelerator import KVM_BOOT_SECONDS, Accelerator, probe_accelerator
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture
from harness.qemu.probe import QemuFacts, probe_qemu
from harness.qemu.spawned_machine import SpawnedMachine
from snapproof.runs.guest_choice import chosen_guest, guest_architecture
from snapproof.runs.machine import require_start, with_machine
from snapproof.runs.options import DEFAULT_ACCEL, HostOptions, StackOptions
from snapproof.runs.own_guest import own_image
from tests_functional.lib.guest import Stack, way_in
from tests_functional.lib.machines import machine_environment, relies_on_counter
from validators.native.build import build_core

_KVM_SYSTEMD_SECONDS = 40.0
_NO_CLOCK_UNDER_PVM = (
    "KVM here is PVM, which does not restore the processor's counter, and this machine has no other clock "
    "for a bare guest, so a restored one would find its clock ahead."
)
# What UEFI firmware adds to a boot under a KVM that works.
_KVM_UEFI_SECONDS = 10.0
# It takes a hundredth of a second; but the answer is kept, and a busy host must not rule KVM out.
_KVM_BARE_SECONDS = 15.0


def cache_at(folder: Path | None) -> Cache:
    """Return the cache in a folder; without a folder, the one that $SNAPPROOF_CACHE names."""
    return Cache(folder.absolute() if folder else default_cache_folder())


def provisioning_for(options: StackOptions | HostOptions, log: Log) -> Provisioning:
    """Return the cache and the mirror that a command's options name, with its log."""
    return Provisioning(cache_at(options.cache), log, options.mirror)


def find_qemu(
    name: str | None, provisioning: Provisioning, emulates: Architecture = DEFAULT_ARCHITECTURE
) -> QemuFacts:
    """Return the QEMU that `--qemu` means: a name in the catalogue, a path, a program on PATH.

    Args:
        name: the option's value. Without one it is the QEMU on PATH, else the catalogue's default.
        provisioning: the mirror, the cache, and the log of slow steps.
        emulates: the processor of the guest.

    Raises:
        NoSubject: the executable does not exist or is not a QEMU.
        MachineryMissing, SetupBroken: the package could not be fetched.
    """
    known = _catalogue_name(name, emulates)
    if known:
        provisioning.log(f"QEMU '{known}' from its package.")
        return probe_qemu(provision_qemu(known, provisioning, emulates=emulates).executable)
    return probe_qemu(name or emulates.qemu)


def _catalogue_name(name: str | None, emulates: Architecture) -> str:
    """Return the QEMU of the catalogue that `--qemu` means for a processor, "" where it is none of these."""
    if name is None and shutil.which(emulates.qemu) is None:
        return DEFAULT_QEMU
    return name if name in {spec.name for spec in QEMUS} else ""


def find_emulator(
    name: str | None, executable: Path, own: Architecture, emulates: Architecture, provisioning: Provisioning
) -> Path:
    """Return the QEMU that emulates another processor and is of the same build as the run's.

    Args:
        name: the value of `--qemu`.
        executable: the QEMU that it means.
        own: the processor which that one emulates.
        emulates: the processor that is wanted.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        MachineryMissing: there is none, or its package could not be fetched.
        SetupBroken: its package is not as it should be.
    """
    if emulates.qemu == own.qemu:
        return executable
    known = _catalogue_name(name, own)
    if known:
        return provision_qemu(known, provisioning, emulates=emulates).executable
    beside = executable.with_name(emulates.qemu)
    if not beside.exists():
        raise MachineryMissing(f"There is no '{emulates.qemu}' beside '{executable}'; build that target too.")
    return beside


def prepare_stack(options: StackOptions, folder: Path, log: Log) -> tuple[Stack, dict[str, Any]]:
    """Fetch or build the QEMU and the guest of a run, and find the accelerator.

    Args:
        options: QEMU, guest, accelerator, mirror and cache.
        folder: the results folder, for the accelerator probe's logs.
        log: called with a sentence before each slow step.

    Returns:
        The stack, and the environment that every result has.
    """
    require_loopback()
    provisioning = provisioning_for(options, log)
    architecture = guest_architecture(options)
    qemu = find_qemu(options.qemu, provisioning, architecture)
    image = own_image(options.own, provisioning, architecture)
    image = image or build_guest(chosen_guest(options), provisioning)
    try:
        build_core(provisioning)
    except (MachineryMissing, SetupBroken) as error:
        # Files are judged by numpy then.
        log(error.sentence)
    if options.own.guest_needs:
        # Also for a guest of the catalogue, to which a wrapper of QEMU adds devices, say.
        image = replace(image, own_mib=options.own.guest_needs)
    stack = Stack(
        qemu.executable,
        image,
        accel=options.accel,
        machine=image.architecture.machine,
        capabilities=qemu.capabilities,
    )
    stack = with_machine(stack.fitted(), options, provisioning)
    _require_accelerator(options.accel, qemu)
    accelerator = accelerator_for(options.accel, stack, qemu.version, folder, provisioning)
    stack = replace(stack, accel=accelerator.name)
    require_start(stack, options, folder)
    log(f"QEMU {qemu.version}, guest '{image.name}', accelerator {accelerator.name}.")
    facts = local_facts()
    environment = {
        "host": LOCAL,
        "host_kernel": facts.kernel,
        "host_architecture": facts.architecture,
        "host_cpus": facts.cpus,
        "qemu": qemu.version,
        "qemu_executable": str(qemu.executable),
        "accelerator": accelerator.name,
        "accelerator_reason": accelerator.reason,
        "guest_image": image.name,
        "guest_image_digest": image.digest,
        **machine_environment(stack),
        **patience_environment(),
    }
    return stack, environment


def patience_environment() -> dict[str, float]:
    """Return the factor of time limits as part of a result's environment, nothing where it is 1."""
    factor = patience()
    return {} if factor == 1 else {"patience": factor}


def _require_accelerator(wanted: str, qemu: QemuFacts) -> None:
    """Check that a QEMU has the accelerator that was asked for.

    Raises:
        UsageError: it has not, e.g. KVM in the emulator of another processor.
    """
    if wanted != DEFAULT_ACCEL and wanted not in qemu.accelerators:
        raise UsageError(
            f"The QEMU '{qemu.executable}' has no accelerator '{wanted}', only "
            f"{', '.join(qemu.accelerators)}; leave --accel out, or choose a QEMU and a guest of this "
            "machine's processor."
        )


def accelerator_for(
    wanted: str, stack: Stack, version: str, folder: Path, provisioning: Provisioning
) -> Accelerator:
    """Return the accelerator to run a guest with: as chosen, or KVM where the guest boots under it.

    Args:
        wanted: the value of `--accel`.
        stack: QEMU, guest and machine.
        version: version of the QEMU.
        folder: receives the logs of a boot under KVM.
        provisioning: the cache, which keeps the result for this boot of the host.
    """
    if wanted != DEFAULT_ACCEL:
        return Accelerator(wanted, "chosen with --accel")
    if relies_on_counter(stack) and find_kvm().kind is KvmKind.PVM:
        return Accelerator("tcg", _NO_CLOCK_UNDER_PVM)
    image = stack.image
    known = provisioning.cache.path("accelerator", f"{_probe_key(stack, version)}.json")
    if known.exists():
        return Accelerator(**json.loads(known.read_text(encoding="utf-8")))
    provisioning.log("Probing which accelerator works.")
    stack = replace(stack, accel="kvm")
    ready, seconds = _console_ready, KVM_BOOT_SECONDS
    if image.bare:
        ready, seconds = partial(_way_in, stack), _KVM_BARE_SECONDS
    elif image.agent is not None:
        # The console of a user's own guest is unknown, and systemd takes longer than our own init.
        ready, seconds = partial(_way_in, stack), _KVM_SYSTEMD_SECONDS
    if stack.flash:
        seconds += _KVM_UEFI_SECONDS
    found = probe_accelerator(stack.machine_config(), ready, seconds, folder / "kvm-probe", image.bare)
    # Arguments that QEMU does not start with are the user's fault, and may be right the next time.
    if found.name == "kvm" or not stack.user_arguments:
        publish_file(known, json.dumps(asdict(found)).encode())
    return found


def _console_ready(machine: SpawnedMachine, deadline: Deadline) -> None:
    machine.wait_console(READY_LINE, deadline)


def _way_in(stack: Stack, machine: SpawnedMachine, deadline: Deadline) -> None:
    with way_in(machine, stack, deadline):
        pass


def _probe_key(stack: Stack, version: str) -> str:
    """Return a key for the probe's result: a digest of this boot of the host, QEMU, guest and machine."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine = machine_environment(stack).values()
    words = [boot, str(stack.executable), version, stack.image.digest, *machine]
    return sha256(" ".join(words).encode()).hexdigest()[:16]
