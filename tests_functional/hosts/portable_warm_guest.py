"""Makes the warm guest for hosts: booted, filled and saved once here, it starts on a host in seconds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from guest_images.agent.client import AgentStatus
from guest_images.agent.format import WORD_BYTES, ThreadWord
from guest_images.cache import publish_folder, read_json, to_json
from guest_images.disks.ext4_image import TreeArchive, fill_image
from guest_images.guests.image import GuestImage
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import SetupBroken
from tests_functional.lib.guest import Stack, booted, start_writers
from tests_functional.lib.guest_size import COVERAGE as BARE_COVERAGE
from tests_functional.lib.save import Flow, take
from tests_functional.lib.time_limits import BOOT_SECONDS, FILL_SECONDS, SAVE_SECONDS
from validators.judge import check_file

RAM_MIB = 128
COVERAGE = 0.4
"""Coverage of this small guest: kernel and initramfs need half of its RAM. It is small because each MiB
takes a tenth of a second to load and to save in an emulated VM."""

BARE_RAM_MIB = 48
"""RAM of a bare guest in its place, of which its writers fill 85 %. It has 23 places for large pages or more,
half of which are split while QEMU is stopped."""

_SEED = 7
# A disk consists of whole sectors; the length of the stream is stored in the description.
_SECTOR = 512
_STEPS_BYTE = ThreadWord.STEPS * WORD_BYTES


@dataclass(frozen=True)
class PortableWarmGuest:
    """A saved guest that can be started on a host.

    Attributes:
        stack: the stack that it was made on, with the versioned machine type.
        vmstate: the stream, padded to whole sectors, so that it can be a disk.
        size_bytes: length of the stream.
        boot_disk: an ext4 image with what the guest boots from: `vmlinuz`, `initrd.cpio`, `firmware.bin`.
        counters: guest-physical addresses of the writers' step counters.
        control: guest-physical address of the agent's control page.
        source: the agent's status when it was saved.
    """

    stack: Stack
    vmstate: Path
    size_bytes: int
    boot_disk: Path
    counters: tuple[int, ...]
    control: int
    source: AgentStatus


def provide_warm_guest(
    executable: Path,
    version: str,
    image: GuestImage,
    mkfs: Path,
    folder: Path,
    provisioning: Provisioning,
    pattern: str = "random",
) -> PortableWarmGuest:
    """Return a warm guest made by a QEMU of this machine; make it if the cache lacks it.

    Args:
        executable: the QEMU.
        version: version of its package; with the image's digest it names the warm guest.
        image: the guest.
        mkfs: root of the unpacked `ext4_image.mkfs_packages`.
        provisioning: the mirror, the cache, and the log of slow steps.
        folder: receives logs and the new snapshot.
        pattern: the order in which its writers write.

    Raises:
        SetupBroken: the guest does not boot or write, or its snapshot is wrong.
        SubjectFailed: QEMU failed.
    """
    ram, coverage = (BARE_RAM_MIB, BARE_COVERAGE) if image.bare else (RAM_MIB, COVERAGE)
    stack = Stack(executable, image, accel="tcg", ram_mib=ram, coverage=coverage)
    code = sha256(Path(__file__).read_bytes()).hexdigest()
    name = sha256(f"{version} {image.digest} {ram} {coverage} {pattern} {code}".encode()).hexdigest()[:16]
    final = provisioning.cache.path("seeds", name)
    with provisioning.lock("seeds"):
        if read_json(final / "seed.json") is None:
            provisioning.log(f"Making the warm guest for hosts with QEMU {version}.")
            with provisioning.cache.staging("seeds") as staging:
                staged = staging / "seed"
                staged.mkdir()
                _make(stack, pattern, mkfs, staged, folder)
                publish_folder(staged, final)
    return _read(stack, final)


def _make(stack: Stack, pattern: str, mkfs: Path, staged: Path, folder: Path) -> None:
    with booted(stack, folder / f"seed-{pattern}", Deadline(BOOT_SECONDS)) as guest:
        plan = stack.writer_plan(pattern, _SEED)
        status, counters = start_writers(guest, plan, Deadline(FILL_SECONDS))
        snapshot = take(Flow.STOP_AND_SAVE, guest, counters, staged, Deadline(SAVE_SECONDS))
        # Below the hole at 3 GiB, guest-physical addresses equal offsets in pc.ram.
        addresses = [page.offset + _STEPS_BYTE for page in counters.pages.threads]
        guest.machine.quit()
    verdict = check_file(snapshot.path, agent_ran=True)
    if verdict.violations:
        raise SetupBroken(f"The warm guest for hosts was saved wrongly: {verdict.violations[0].sentence}")
    with snapshot.path.open("r+b") as file:
        file.truncate(-(-snapshot.size_bytes // _SECTOR) * _SECTOR)
    image = stack.image
    fill_image(mkfs, staged / "boot.raw", lambda file: _boot_files(image, file), label="boot", journal=False)
    description = {
        "machine": str(verdict.facts["machine"]),
        "size_bytes": snapshot.size_bytes,
        "counters": addresses,
        "control": counters.pages.control.offset,
        "source": asdict(status),
    }
    (staged / "seed.json").write_bytes(to_json(description))


def _boot_files(image: GuestImage, file: Any) -> int:
    archive = TreeArchive(file)
    files = {"vmlinuz": image.kernel, "initrd.cpio": image.initrd, "firmware.bin": image.firmware}
    for name, path in files.items():
        if path is not None:
            archive.add_path(name, path)
    archive.close()
    return archive.image_bytes


def _read(stack: Stack, folder: Path) -> PortableWarmGuest:
    found = json.loads((folder / "seed.json").read_text(encoding="utf-8"))
    source = found["source"]
    for name in ("steps", "histogram"):
        source[name] = tuple(source[name])
    return PortableWarmGuest(
        stack=replace(stack, machine=found["machine"]),
        vmstate=folder / "vmstate",
        size_bytes=int(found["size_bytes"]),
        boot_disk=folder / "boot.raw",
        counters=tuple(found["counters"]),
        control=int(found["control"]),
        source=AgentStatus(**source),
    )
