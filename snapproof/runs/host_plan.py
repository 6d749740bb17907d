"""Prepares the host that `--host` names: builds its VM or its SSH connection, and the files to copy to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from guest_images.cache import Log
from guest_images.catalogue import DEFAULT_QEMU, HostSpec, host_spec
from guest_images.disks.ext4_image import mkfs_root
from guest_images.guests.image import build_guest
from guest_images.guests.kernel_modules import Kernel
from guest_images.hosts.archive import ARCHIVE, archived_kernel, matching_kernels
from guest_images.hosts.compiled_python import compiled_sources
from guest_images.hosts.image import OWN_KERNEL_HOST, HostImage, build_host, build_host_with_kernel
from guest_images.hosts.init import HOST_READY
from guest_images.hosts.kernel_build import build_kernel
from guest_images.hosts.machine import RAM_MIB, host_config
from guest_images.provisioning import Provisioning
from guest_images.qemu.builds import ProvisionedQemu, provision_qemu
from guest_images.qemu.disk import build_qemu_disk
from harness.deadline import Deadline, patient
from harness.errors import MachineryMissing, UsageError
from harness.hosts.host import Host
from harness.hosts.link import LocalLink
from harness.hosts.local import HostFacts
from harness.hosts.spec import LOCAL, HostSpecText, SshAddress, VmSpec, parse_host
from harness.hosts.ssh import ssh_host
from harness.hosts.vm import VmDisk, disk_arguments, vm_host
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.qemu.probe import DEFAULT_EXECUTABLE
from snapproof.runs.options import HostOptions
from snapproof.runs.stack import provisioning_for
from tests_functional.hosts.examination import FAULT, SINKS, HostPlan
from tests_functional.hosts.feature_tests import carried_sources
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest, provide_warm_guest
from tests_functional.hosts.snapshots import HostPaths
from tests_functional.hosts.vm_places import sink_file, vm_disks, vm_places
from tests_functional.kernel import registry
from tests_functional.kernel.trackers import mprotect
from validators.faults.live.wrapper import fault_library
from validators.faults.preload.library import preload_library

_LOGIN_SECONDS = 30.0
_CARRY_SECONDS = 300.0
_COMPILED = "kernel-"
_SPARSE = "sparse"
# Under TCG a test takes up to twenty times as long, and longer on a busy machine.
_SLOW = 4
# RAM of this machine that a VM takes with its QEMU, and what is left to everything else.
_HOST_MIB, _SPARE_MIB = RAM_MIB + 512, 1024
# The write trackers compare ways of taking a snapshot; they take as much time as all feature tests.
_FEATURE_SUITES = tuple(f"{suite}.*" for suite in registry.SUITES if suite != "trackers")


def hosts_at_once(facts: HostFacts, jobs: int | None) -> int:
    """Return how many hosts to examine side by side on a machine: `jobs`, or as many as it can bear."""
    # Most of the time one processor of a VM is busy: during the boot, and in the feature tests.
    return jobs or max(1, min(facts.cpus, (facts.memory_mib - _SPARE_MIB) // _HOST_MIB))


@dataclass(frozen=True)
class Sources:
    """The inputs from which the plan of each host is made.

    Attributes:
        options: how to reach the hosts, and what to do there.
        folder: the results folder; each host gets a folder of its own in it.
        log: called with a sentence before each slow step.
    """

    options: HostOptions
    folder: Path
    log: Log

    @property
    def provisioning(self) -> Provisioning:
        """Return how all that the plans need is provided."""
        return provisioning_for(self.options, self.log)


def prepared(wanted: HostSpecText, sources: Sources) -> tuple[HostPlan, AbstractContextManager[Host]]:
    """Return the plan for a host, and the context manager that opens the host.

    Raises:
        UsageError: there is no such host.
        MachineryMissing, SetupBroken: something that the host needs could not be fetched or built.
    """
    if wanted.vm is not None:
        return _vm(wanted.vm, sources)
    address = _address(wanted.ssh, sources.options) if wanted.ssh else None
    name = address.name if address else LOCAL
    folder = _folder(sources, name)
    local = address is None
    qemu = provision_qemu(sources.options.qemu or DEFAULT_QEMU, sources.provisioning)
    given = sources.options.host_qemu or (str(qemu.executable) if local else DEFAULT_EXECUTABLE)
    warm = _warm_guest(qemu, sources, folder)

    def places(host: Host) -> HostPaths:
        assert warm is not None, "asked for with a warm guest only"
        return _carried(host, warm, given)

    # A library that was built here may not run on another machine.
    plan = HostPlan(
        name=name,
        expected=None,
        warm=warm,
        sparse=None,
        places=places,
        sinks={},
        tests=_tests(sources),
        helper=tracker_library(sources.provisioning) if local else None,
        fault=_fault(sources) if local else None,
        own=False,
        folder=folder,
    )
    return plan, Host(LOCAL, LocalLink()) if address is None else _logged_in(address)


def opened_host(wanted: HostSpecText, sources: Sources) -> AbstractContextManager[Host]:
    """Open a host without copying a guest to it. Raises the errors of `prepared`."""
    if wanted.vm is None:
        address = _address(wanted.ssh, sources.options) if wanted.ssh else None
        return Host(LOCAL, LocalLink()) if address is None else _logged_in(address)
    image, _ = _image(wanted.vm, sources)
    return _booted(image, {}, sources, _folder(sources, image.name))


def _vm(wanted: VmSpec, sources: Sources) -> tuple[HostPlan, AbstractContextManager[Host]]:
    image, spec = _image(wanted, sources)
    folder = _folder(sources, image.name)
    usual = image.architecture is DEFAULT_ARCHITECTURE
    chosen = sources.options.qemu if usual else None
    inner = provision_qemu(chosen or spec.qemu, sources.provisioning)
    outer = provision_qemu(chosen or spec.source_qemu, sources.provisioning)
    warm = _warm_guest(outer, sources, folder)
    # Its agent takes commands by its mailbox alone, so it has to be a bare guest.
    sparse = _warm_guest(outer, sources, folder, _SPARSE) if warm and warm.stack.image.bare else None
    disks: dict[str, VmDisk] = {}
    if warm is not None:
        mkfs = mkfs_root(sources.provisioning)
        disks = vm_disks(warm, build_qemu_disk(inner, mkfs, sources.provisioning), folder, SINKS, sparse)
    plan = HostPlan(
        name=image.name,
        expected=spec.features if wanted.name and not wanted.name.startswith(ARCHIVE) else None,
        warm=warm,
        sparse=sparse,
        places=lambda _: vm_places(SINKS),
        sinks={flow: sink_file(folder, flow) for flow in SINKS},
        tests=_tests(sources, *lent_to_vm()),
        helper=tracker_library(sources.provisioning) if usual else None,
        fault=_fault(sources) if usual else None,
        own=True,
        folder=folder,
        compiled=compiled_sources(
            carried_sources(), image.packages, image.architecture, sources.provisioning
        ),
    )
    return plan, _booted(image, disks, sources, folder)


def _image(wanted: VmSpec, sources: Sources) -> tuple[HostImage, HostSpec]:
    if wanted.kernel is not None:
        given = Kernel(wanted.kernel, wanted.modules)
        image = build_host_with_kernel(given, sources.provisioning)
        return image, host_spec(OWN_KERNEL_HOST)
    if wanted.name.startswith(_COMPILED):
        built = build_kernel(wanted.name.removeprefix(_COMPILED), sources.provisioning)
        image = build_host_with_kernel(Kernel(built.image, None), sources.provisioning)
        # It differs from the user's own kernel in its name and features only.
        spec = replace(host_spec(OWN_KERNEL_HOST), name=wanted.name, features=built.spec.features)
        return replace(image, name=wanted.name, boot_seconds=built.spec.boot_seconds), spec
    if wanted.name.startswith(ARCHIVE):
        return _archived(wanted.name, sources)
    spec = host_spec(wanted.name)
    return build_host(wanted.name, sources.provisioning), spec


def _archived(name: str, sources: Sources) -> tuple[HostImage, HostSpec]:
    found = matching_kernels(name.removeprefix(ARCHIVE), sources.provisioning)
    if len(found) > 1:
        versions = ", ".join(kernel.version for kernel in found)
        raise UsageError(f"The host 'vm:{name}' is more than one kernel: {versions}; name one of them.")
    kernel = archived_kernel(found[0], sources.provisioning)
    image = build_host_with_kernel(kernel, sources.provisioning)
    return replace(image, name=found[0].name), host_spec(OWN_KERNEL_HOST)


def expanded_hosts(wanted: Sequence[HostSpecText], provisioning: Provisioning) -> list[HostSpecText]:
    """Return hosts with a host for each kernel of the archive that the pattern of a host matches.

    Raises:
        UsageError: a host names no version, or no kernel matches its pattern.
        MachineryMissing, SetupBroken: a package index could not be fetched.
    """
    found: list[HostSpecText] = []
    for host in wanted:
        name = host.vm.name if host.vm else ""
        if not name.startswith(ARCHIVE):
            found.append(host)
            continue
        pattern = name.removeprefix(ARCHIVE)
        if not pattern:
            raise UsageError(f"The host '{host.text}' names no version; give one like '{host.text}6.12.*'.")
        kernels = matching_kernels(pattern, provisioning)
        found += [parse_host(f"vm:{kernel.name}") for kernel in kernels]
    return found


@contextmanager
def _booted(image: HostImage, disks: dict[str, VmDisk], sources: Sources, folder: Path) -> Iterator[Host]:
    options = sources.options
    config = host_config(image, sources.provisioning, accel=options.accel, arguments=disk_arguments(disks))
    sources.log(f"{image.name}: booting it.")
    boot = Deadline(image.boot_seconds)
    with vm_host(image.name, config, image.identity, folder / "host", boot, HOST_READY) as host:
        yield host


@contextmanager
def _logged_in(address: SshAddress) -> Iterator[Host]:
    with ssh_host(address, Deadline(_LOGIN_SECONDS)) as host:
        yield host


def _address(address: SshAddress, options: HostOptions) -> SshAddress:
    return replace(address, private_key=options.ssh_key, host_key=options.ssh_host_key)


def _folder(sources: Sources, name: str) -> Path:
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    folder = sources.folder / "tests" / f"hosts.{plain}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _warm_guest(
    qemu: ProvisionedQemu, sources: Sources, folder: Path, pattern: str = "random"
) -> PortableWarmGuest | None:
    if not sources.options.snapshots:
        return None
    image = build_guest(sources.options.guest, sources.provisioning)
    mkfs = mkfs_root(sources.provisioning)
    return provide_warm_guest(
        qemu.executable, qemu.version, image, mkfs, folder, sources.provisioning, pattern
    )


def lent_to_vm() -> list[str]:
    """Return arguments of the feature tests for a VM, where huge pages, swap, KSM and poison are allowed."""
    return ["--prepare", "--ksm", "--poison", "--one-cpu", "--slow", f"{patient(_SLOW):g}"]


def lent_for_lists() -> list[str]:
    """Return arguments of the lists of memory operations for a VM, where swap and KSM are allowed."""
    return ["--prepare", "--ksm", "--one-cpu", "--slow", str(_SLOW)]


def _tests(sources: Sources, *lent: str) -> list[str] | None:
    options = sources.options
    if not options.tests:
        return None
    patterns = options.filter or (() if options.trackers else _FEATURE_SUITES)
    return [*lent, *(word for pattern in patterns for word in ("--filter", pattern))]


def tracker_library(provisioning: Provisioning) -> Path | None:
    """Return the mprotect tracker's library, None if it cannot be built; its tests are skipped then."""
    try:
        source = Path(mprotect.__file__).with_name("segv.c")
        return Path(preload_library(source, provisioning))
    except MachineryMissing as error:
        provisioning.log(f"The mprotect tracker is skipped. {error.sentence}")
        return None


def _fault(sources: Sources) -> Path | None:
    """Return the planted fault's library, None if it cannot be built."""
    try:
        return fault_library(FAULT, sources.provisioning)
    except MachineryMissing as error:
        sources.log(f"No fault is planted. {error.sentence}")
        return None


def _carried(host: Host, warm: PortableWarmGuest, qemu: str) -> HostPaths:
    """Copy a warm guest to a host and return its paths there."""
    image = warm.stack.image
    files = {
        "vmstate": warm.vmstate,
        "vmlinuz": image.kernel,
        "initrd": image.initrd,
        "firmware": image.firmware,
    }
    there = {name: path for name, path in files.items() if path is not None}
    host.put(dict(there), Deadline(_CARRY_SECONDS))
    folder = host.folder
    return HostPaths(
        qemu=PurePosixPath(qemu),
        vmstate=folder / "vmstate",
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd",
        firmware=folder / "firmware",
        sinks={flow: folder / f"vmstate-{flow}" for flow in SINKS},
    )
