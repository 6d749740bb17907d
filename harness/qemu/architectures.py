"""Processor architectures of guests and hosts: all that QEMU, Debian and Linux call by another name on each.

A new architecture is added here and in `guest_images/catalogue.py`, and docs/own-guest.md says what a user
must know of its guests. No other file names one.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from harness.errors import UsageError

TARGET_PAGE_BYTES = 4096
"""Size of QEMU's target page on every architecture here: the unit of guest RAM in a vmstate stream.

It does not depend on the pages of the guest's kernel: an arm64 guest with pages of 16K or 64K has it too. The
pages of a host are what `os.sysconf("SC_PAGESIZE")` says.
"""


@dataclass(frozen=True)
class MachineType:
    """A machine type of QEMU, and the guest-physical addresses of its RAM.

    Attributes:
        name: its name for `-machine`.
        rule: the name of its memory map in a verdict's facts.
        mark: a part of the versioned name that a vmstate stream has for it.
        ram_block: the RAMBlock of its main memory, where no memory backend is given.
        ram_start: guest-physical address of its first byte of RAM.
        most_below: RAM in bytes that lies below the hole in any case, None where RAM has no hole.
        split_below: RAM in bytes below the hole where there is more than `most_below`.
        split_start: guest-physical address of the rest.
        most_ram: the largest RAM in bytes whose addresses depend on nothing but its size, None for any.
        ram_multiple_mib: its RAM must be a multiple of so many MiB.
        stun_ram_mib: RAM in MiB with which saving RAM takes far longer than saving its devices, of which the
            first alone is what a background snapshot does without a stun.
        versioned: how the names of its versioned types begin, "" where it has none.
        pci: whether it has PCI, which the devices of Linux guests need.
        uefi: whether it takes UEFI firmware in two flash devices.
        boots_disks: whether QEMU's own firmware for it starts the boot loader of a disk.
        clock: whether it has a clock that bare guests can use in place of the processor's counter.
        config_ports: whether the host can drive its devices, through the ports of PCI configuration space.
        virtio_mmio: whether its virtio devices can have registers in memory, where the host can drive them.
        io_ports: whether it has I/O ports.
        pages_since: the first version of it with target pages of TARGET_PAGE_BYTES, as a number of QEMU's.
        bare_since: the first version of it whose `-kernel` takes a bare guest, as a number of QEMU's.
    """

    name: str
    rule: str
    mark: str
    ram_block: str
    ram_start: int = 0
    most_below: int | None = None
    split_below: int = 0
    split_start: int = 1 << 32
    most_ram: int | None = None
    ram_multiple_mib: int = 1
    stun_ram_mib: int = 512
    versioned: str = ""
    pci: bool = True
    uefi: bool = False
    boots_disks: bool = True
    clock: bool = True
    config_ports: bool = False
    virtio_mmio: bool = False
    io_ports: bool = False
    pages_since: tuple[int, ...] = ()
    bare_since: tuple[int, ...] = ()

    def is_named(self, name: str) -> bool:
        """Return whether a vmstate stream with that machine name is of this machine type."""
        return name == self.name or self.mark in name

    def is_version(self, name: str) -> bool:
        """Return whether a name is that of a versioned type, such as the one that an older QEMU had."""
        return bool(self.versioned) and name.startswith(self.versioned)

    def version(self, name: str) -> tuple[int, ...] | None:
        """Return the version in the name of a versioned type, None where it has none."""
        numbers = name.removeprefix(self.versioned).split(".") if self.is_version(name) else []
        return tuple(map(int, numbers)) if numbers and all(map(str.isdecimal, numbers)) else None

    def has_usual_pages(self, name: str) -> bool:
        """Return whether target pages have TARGET_PAGE_BYTES on the type of that name, versioned or not."""
        version = self.version(name)
        return version is None or version >= self.pages_since

    def takes_bare(self, name: str) -> bool:
        """Return whether `-kernel` takes a bare guest on the type of that name, versioned or not."""
        version = self.version(name)
        return version is None or version >= self.bare_since

    def ram_windows(self, ram_bytes: int) -> list[tuple[int, int]]:
        """Return where so much RAM lies: first address and size of each window, in bytes."""
        if self.most_below is None:
            return [(self.ram_start, ram_bytes)]
        low = self.most_below if ram_bytes < self.most_below else self.split_below
        return [(self.ram_start, low), (self.split_start, ram_bytes)]


# QEMU 10.0 hw/i386/pc_piix.c pc_i440fx_3_1_machine_options(), the same of q35: pvh_enabled.
_PVH_SINCE = (4, 0)

# QEMU 10.0 hw/i386/pc.c pc_memory_init(): on AMD processors with more the rest begins at 1 TiB. By how much
# more depends on the room for devices, for which half of it is kept here.
_MOST_PC_RAM = 1 << 39

# QEMU 10.0 hw/i386/pc_piix.c pc_init1().
PC = MachineType(
    "pc",
    "i440fx",
    "i440fx",
    "pc.ram",
    most_below=0xE0000000,
    split_below=0xC0000000,
    most_ram=_MOST_PC_RAM,
    versioned="pc-i440fx-",
    bare_since=_PVH_SINCE,
    config_ports=True,
    io_ports=True,
    uefi=True,
)
# QEMU 10.0 hw/i386/pc_q35.c pc_q35_init().
Q35 = MachineType(
    "q35",
    "q35",
    "q35",
    "pc.ram",
    most_below=0xB0000000,
    split_below=0x80000000,
    most_ram=_MOST_PC_RAM,
    versioned="pc-q35-",
    bare_since=_PVH_SINCE,
    config_ports=True,
    io_ports=True,
    uefi=True,
)
# QEMU 10.0 hw/i386/microvm.c microvm_memory_init().
MICROVM = MachineType(
    "microvm",
    "microvm",
    "microvm",
    "microvm.ram",
    most_below=0xC0000000,
    split_below=0xC0000000,
    pci=False,
    boots_disks=False,
    clock=False,
    virtio_mmio=True,
    io_ports=True,
)
# QEMU 10.0 hw/arm/virt.c base_memmap.
VIRT = MachineType(
    "virt",
    "virt",
    "virt-",
    "mach-virt.ram",
    ram_start=1 << 30,
    versioned="virt-",
    uefi=True,
    boots_disks=False,
    # QEMU 7.2 hw/arm/virt.c virt_machine_2_7_options(): minimum_page_bits.
    pages_since=(2, 8),
    virtio_mmio=True,
)

# QEMU 10.0 hw/riscv/virt.c virt_memmap.
RISCV_VIRT = MachineType(
    "virt",
    "virt",
    "riscv-virt",
    "riscv_virt_board.ram",
    ram_start=2 << 30,
    boots_disks=False,
    virtio_mmio=True,
)

# QEMU 10.0 hw/s390x/s390-virtio-ccw.c s390_memory_init().
S390_CCW = MachineType(
    "s390-ccw-virtio", "s390-ccw-virtio", "s390-ccw-virtio-", "s390.ram", versioned="s390-ccw-virtio-"
)
# QEMU 10.0 hw/ppc/spapr.c spapr_machine_init(), and spapr_validate_node_memory() for the multiple.
# Its devices have 4 MiB of state in elements of 8 bytes, which take 25 to 90 ms under TCG on a busy host.
PSERIES = MachineType(
    "pseries",
    "pseries",
    "pseries-",
    "ppc_spapr.ram",
    ram_multiple_mib=256,
    stun_ram_mib=1024,
    versioned="pseries-",
)

MOVING_CPUS = ("max", "host")
"""CPU models that stand for all that a QEMU, or a host, has: another processor in each version of QEMU."""

MACHINE_TYPES = (PC, Q35, MICROVM, VIRT, RISCV_VIRT, S390_CCW, PSERIES)


@dataclass(frozen=True)
class BareTarget:
    """How the agent without an operating system is built for an architecture, and booted.

    Attributes:
        compiler_target: the target of zig's compiler.
        flags: arguments for the compiler beside those of all architectures.
        control_page: guest-physical address of its control page, where its linker script loads it.
        shared: folder of sources that it has in common with another architecture, "" for none.
        firmware: whether a firmware for `-bios` is among these.
        native: for a `cc` of another architecture, by its name, the flags with which it compiles for this.
        machine_arguments: further arguments for QEMU that it needs, beside the architecture's.
        maps_plugged: whether it maps memory that is plugged in later, on machine types with `config_ports`.
        joins_ram: whether it uses RAM on both sides of a hole.
        beside_ram: which state beside RAM it can store and load, "" for none (docs/beside-ram.md).
    """

    compiler_target: str
    flags: tuple[str, ...]
    control_page: int
    shared: str = ""
    firmware: bool = False
    native: tuple[tuple[str, tuple[str, ...]], ...] = ()
    machine_arguments: tuple[str, ...] = ()
    maps_plugged: bool = False
    joins_ram: bool = False
    beside_ram: str = ""


@dataclass(frozen=True)
class UefiPackage:
    """A Debian package of UEFI firmware for guests.

    Attributes:
        package: its name.
        code: image of the program in it, without a slash at the beginning.
        variables: image of empty variables in it.
    """

    package: str
    code: str
    variables: str


_ELF_MAGIC, _E_MACHINE = b"\x7fELF", 18


@dataclass(frozen=True)
class Architecture:
    """One processor architecture.

    Attributes:
        name: what `uname -m` and compilers call it.
        debian: what Debian's archive calls it.
        qemu: the QEMU program that emulates it.
        qemu_packages: Debian packages of that program. Firmware is among them although the program depends
            on it, since a missing network boot ROM shows only when a device is added.
        older_qemu_packages: for releases by codename, the packages where these are others.
        machines: its machine types; the first one is used where none is asked for.
        machine_arguments: further arguments for QEMU that a Linux of today needs on that machine.
        kept_cpu: a CPU model that is the same in all versions of QEMU, where `machine_arguments` name one
            that is not; "" where the machine type's own is.
        console: Linux's device of the machine's serial port.
        kernel_package: Debian's metapackage of the newest kernel for virtual machines.
        lacks_drivers: modules that Debian's kernels of today do not have on it.
        kernel_file: beginning of the name of the kernel image in Debian's packages.
        linux_folder: its folder below `arch/` in Linux's source.
        linux_image: what `make` builds for `-kernel`, in the folder `boot` of `linux_folder`.
        linux_signature: offset and bytes in the file by which such an image is known.
        elf_machine: the field `e_machine` of its ELF files, in its own byte order.
        triplet: the folder below `lib` and `usr/lib` that holds its libraries.
        loader: file name of its dynamic loader.
        loader_folder: where programs expect the loader, without a slash at the beginning.
        compiler_target: the target of a C compiler that links programs for its Linux statically.
        no_library_flags: arguments for a compiler without which it calls functions of its own library.
        bare: how the agent is built that needs no Linux, None where there is none.
        uefi: Debian's UEFI firmware for its guests, None where there is none.
    """

    name: str
    debian: str
    qemu: str
    qemu_packages: tuple[str, ...]
    machines: tuple[MachineType, ...]
    console: str
    kernel_package: str
    linux_folder: str
    linux_image: str
    linux_signature: tuple[int, bytes]
    elf_machine: bytes
    triplet: str
    loader: str
    loader_folder: str
    compiler_target: str
    no_library_flags: tuple[str, ...] = ()
    kernel_file: str = "vmlinuz"
    lacks_drivers: tuple[str, ...] = ()
    machine_arguments: tuple[str, ...] = ()
    kept_cpu: str = ""
    older_qemu_packages: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bare: BareTarget | None = None
    uefi: UefiPackage | None = None

    def qemu_packages_in(self, codename: str) -> tuple[str, ...]:
        """Return the Debian packages of its QEMU program in a release."""
        return dict(self.older_qemu_packages).get(codename, self.qemu_packages)

    def is_kernel(self, head: bytes) -> bool:
        """Return whether a file that begins so is a Linux kernel for it, as far as the file says."""
        at, signature = self.linux_signature
        if head.startswith(_ELF_MAGIC):
            # System V ABI, chapter 4.
            return head[_E_MACHINE : _E_MACHINE + 2] == self.elf_machine
        return head[at : at + len(signature)] == signature

    @property
    def machine(self) -> str:
        """The machine type, for `-machine`, where none is asked for."""
        return self.machines[0].name

    def machine_type(self, name: str) -> MachineType | None:
        """Return its machine type of that name, versioned or not, None where it has none."""
        found = (one for one in self.machines if name == one.name or one.is_version(name))
        return next(found, None)


# Before Debian 13 these programs had no package of their own.
_IN_MISC = tuple((codename, ("qemu-system-misc", "ipxe-qemu")) for codename in ("bullseye", "bookworm"))

# Linux Documentation/arch/x86/boot.rst: the field "header" of a bzImage.
_BZIMAGE_SIGNATURE = (0x202, b"HdrS")

X86_64 = Architecture(
    name="x86_64",
    debian="amd64",
    qemu="qemu-system-x86_64",
    qemu_packages=("qemu-system-x86", "seabios", "ipxe-qemu"),
    machines=(PC, Q35, MICROVM),
    console="ttyS0",
    kernel_package="linux-image-cloud-amd64",
    linux_folder="x86",
    linux_image="bzImage",
    linux_signature=_BZIMAGE_SIGNATURE,
    elf_machine=b"\x3e\x00",
    triplet="x86_64-linux-gnu",
    loader="ld-linux-x86-64.so.2",
    loader_folder="lib64",
    compiler_target="x86_64-linux-musl",
    bare=BareTarget(
        "x86_64-freestanding-none",
        ("-mno-sse", "-mno-mmx", "-mno-80387", "-mno-red-zone"),
        control_page=0x100000,
        shared="x86",
        firmware=True,
        maps_plugged=True,
        joins_ram=True,
    ),
    uefi=UefiPackage("ovmf", "usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
)

I386 = Architecture(
    name="i686",
    debian="i386",
    # It runs 32-bit kernels as well, and is the build that every host of ours has.
    qemu="qemu-system-x86_64",
    qemu_packages=("qemu-system-x86", "seabios", "ipxe-qemu"),
    machines=(PC, Q35, MICROVM),
    console="ttyS0",
    kernel_package="linux-image-686",
    linux_folder="x86",
    linux_image="bzImage",
    linux_signature=_BZIMAGE_SIGNATURE,
    elf_machine=b"\x03\x00",
    triplet="i386-linux-gnu",
    loader="ld-linux.so.2",
    loader_folder="lib",
    compiler_target="x86-linux-musl",
    bare=BareTarget(
        "x86-freestanding-none",
        # The first processor with SSE2, by which a word of 64 bits is stored in one piece.
        ("-march=pentium4",),
        control_page=0x100000,
        shared="x86",
        firmware=True,
        native=(("x86_64", ("-m32",)),),
    ),
)

# gcc calls functions of its library for atomics otherwise, which use LSE instructions where there are any.
_NO_OUTLINE_ATOMICS = ("-mno-outline-atomics",)

AARCH64 = Architecture(
    name="aarch64",
    debian="arm64",
    qemu="qemu-system-aarch64",
    qemu_packages=("qemu-system-arm", "ipxe-qemu"),
    machines=(VIRT,),
    # The default CPU of this machine type is a 32-bit one (QEMU hw/arm/virt.c).
    machine_arguments=("-cpu", "max"),
    kept_cpu="neoverse-n1",
    console="ttyAMA0",
    kernel_package="linux-image-cloud-arm64",
    linux_folder="arm64",
    linux_image="Image",
    # Linux Documentation/arch/arm64/booting.rst: the field "magic".
    linux_signature=(56, b"ARM\x64"),
    elf_machine=b"\xb7\x00",
    triplet="aarch64-linux-gnu",
    loader="ld-linux-aarch64.so.1",
    loader_folder="lib",
    compiler_target="aarch64-linux-musl",
    no_library_flags=_NO_OUTLINE_ATOMICS,
    bare=BareTarget(
        "aarch64-freestanding-none",
        ("-mgeneral-regs-only", "-mstrict-align", *_NO_OUTLINE_ATOMICS),
        control_page=0x40200000,
        beside_ram="allocation-tags",
    ),
    uefi=UefiPackage("qemu-efi-aarch64", "usr/share/AAVMF/AAVMF_CODE.fd", "usr/share/AAVMF/AAVMF_VARS.fd"),
)

RISCV64 = Architecture(
    name="riscv64",
    debian="riscv64",
    qemu="qemu-system-riscv64",
    qemu_packages=("qemu-system-riscv", "ipxe-qemu"),
    older_qemu_packages=_IN_MISC,
    machines=(RISCV_VIRT,),
    console="ttyS0",
    kernel_package="linux-image-riscv64",
    lacks_drivers=("virtio_mem",),
    kernel_file="vmlinux",
    linux_folder="riscv",
    linux_image="Image",
    # Linux Documentation/arch/riscv/boot-image-header.rst: the field "magic2".
    linux_signature=(56, b"RSC\x05"),
    elf_machine=b"\xf3\x00",
    triplet="riscv64-linux-gnu",
    loader="ld-linux-riscv64-lp64d.so.1",
    loader_folder="lib",
    compiler_target="riscv64-linux-musl",
    bare=BareTarget(
        "riscv64-freestanding-none",
        ("-mcmodel=medany", "-mno-relax"),
        control_page=0x80001000,
        machine_arguments=("-bios", "none"),
    ),
)

S390X = Architecture(
    name="s390x",
    debian="s390x",
    qemu="qemu-system-s390x",
    qemu_packages=("qemu-system-s390x",),
    older_qemu_packages=_IN_MISC,
    machines=(S390_CCW,),
    console="ttyS0",
    kernel_package="linux-image-s390x",
    lacks_drivers=("virtio_mem",),
    linux_folder="s390",
    linux_image="bzImage",
    # QEMU 10.0 hw/s390x/ipl.c: LINUX_MAGIC_ADDR.
    linux_signature=(0x10008, b"S390EP"),
    elf_machine=b"\x00\x16",
    triplet="s390x-linux-gnu",
    loader="ld64.so.1",
    loader_folder="lib",
    compiler_target="s390x-linux-musl",
    bare=BareTarget("s390x-freestanding-none", (), control_page=0x20000, beside_ram="storage-keys"),
)

PPC64 = Architecture(
    name="ppc64",
    debian="ppc64",
    qemu="qemu-system-ppc64",
    qemu_packages=("qemu-system-ppc", "ipxe-qemu"),
    machines=(PSERIES,),
    console="hvc0",
    kernel_package="linux-image-powerpc64",
    kernel_file="vmlinux",
    linux_folder="powerpc",
    linux_image="vmlinux",
    linux_signature=(0, _ELF_MAGIC),
    elf_machine=b"\x00\x15",
    triplet="powerpc64-linux-gnu",
    loader="ld64.so.1",
    loader_folder="lib64",
    compiler_target="powerpc64-linux-musl",
    bare=BareTarget(
        "powerpc64-freestanding-none",
        # The first processor that stores a word in the other order by one instruction.
        ("-mcpu=pwr7",),
        control_page=0x401000,
        shared="ppc",
        beside_ram="hash-table",
        # Its small firmware, in place of one that takes seconds (QEMU 10.0 hw/ppc/spapr_vof.c).
        # Types from 2.8 to 2.11 have transactional memory, which TCG refuses.
        machine_arguments=("-machine", "x-vof=on,cap-htm=off"),
    ),
)

PPC64LE = Architecture(
    name="ppc64le",
    debian="ppc64el",
    qemu="qemu-system-ppc64",
    qemu_packages=("qemu-system-ppc", "ipxe-qemu"),
    machines=(PSERIES,),
    console="hvc0",
    kernel_package="linux-image-powerpc64le",
    lacks_drivers=("virtio_mem",),
    kernel_file="vmlinux",
    linux_folder="powerpc",
    linux_image="vmlinux",
    linux_signature=(0, _ELF_MAGIC),
    elf_machine=b"\x15\x00",
    triplet="powerpc64le-linux-gnu",
    loader="ld64.so.2",
    loader_folder="lib64",
    compiler_target="powerpc64le-linux-musl",
    bare=BareTarget(
        "powerpc64le-freestanding-none",
        ("-mcpu=pwr8",),
        control_page=0x401000,
        shared="ppc",
        beside_ram="hash-table",
        machine_arguments=("-machine", "x-vof=on,cap-htm=off"),
    ),
)

ARCHITECTURES = (X86_64, I386, AARCH64, RISCV64, S390X, PPC64, PPC64LE)


def host_architecture(machine: str) -> Architecture:
    """Return the architecture of a host that says `machine` for `uname -m`.

    On a host of an architecture that is not described here it is x86_64, whose guests every QEMU can emulate.
    """
    return next((entry for entry in ARCHITECTURES if entry.name == machine), X86_64)


DEFAULT_ARCHITECTURE = host_architecture(platform.machine())
"""The architecture of this machine: of what runs on it, and of guests where nobody names another."""


def find_architecture(name: str) -> Architecture:
    """Return the architecture of that name, which may be Debian's.

    Raises:
        UsageError: there is none.
    """
    for entry in ARCHITECTURES:
        if name in (entry.name, entry.debian):
            return entry
    known = ", ".join(f"'{entry.name}'" for entry in ARCHITECTURES)
    raise UsageError(f"There is no architecture '{name}' here, only {known}.")


def elf_machine_of(machine_type: MachineType) -> bytes | None:
    """Return `elf_machine` of the guests of a machine type, None where they can have either byte order.

    Of two architectures with one byte order the first is meant, which runs the programs of the other.
    """
    found = [entry.elf_machine for entry in ARCHITECTURES if machine_type in entry.machines]
    return found[0] if len({is_little_endian(one) for one in found}) == 1 else None


def is_little_endian(elf_machine: bytes) -> bool:
    """Return whether a field `e_machine` is little-endian; no architecture here has a number above 255."""
    return elf_machine[1] == 0


def kernel_architectures(head: bytes) -> list[Architecture]:
    """Return the architectures that a Linux kernel may be for, by how its file begins."""
    return [entry for entry in ARCHITECTURES if entry.is_kernel(head)]
