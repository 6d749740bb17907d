"""Provides libvirts side by side: Debian's packages, unpacked, to be run in a room of their own."""

from __future__ import annotations

from guest_images.catalogue import suite
from guest_images.packages.loader import find_loader
from guest_images.packages.unpacked import PackageSet, find_program, provide_tree
from guest_images.provisioning import Provisioning
from harness.errors import UsageError
from harness.libvirt.daemon import LibvirtPackages
from harness.qemu.architectures import DEFAULT_ARCHITECTURE

LIBVIRTS = ("debian-13", "debian-12")
"""Suites whose libvirt is tested: 11.3 and 9.0."""

# busybox has the shell of the script that starts an unpacked QEMU. By zstd libvirt compresses what it saves.
_PACKAGES = ("libvirt-daemon-driver-qemu", "libvirt-daemon", "libvirt-clients", "busybox-static", "zstd")
# The QEMU that the driver depends on comes from its own packages.
_KEEP = ("lib", "zlib1g", "busybox-static", "zstd")
_DRIVER = f"usr/lib/{DEFAULT_ARCHITECTURE.triplet}/libvirt/connection-driver/libvirt_driver_qemu.so"


def provide_libvirt(name: str, provisioning: Provisioning) -> LibvirtPackages:
    """Return the libvirt of a suite, unpacked; fetch it where the cache lacks it.

    Raises:
        UsageError: it is none of LIBVIRTS.
        MachineryMissing, SetupBroken: as `unpacked.provide_tree`.
    """
    if name not in LIBVIRTS:
        raise UsageError(f"There is no libvirt '{name}', only {', '.join(LIBVIRTS)}.")
    tree = provide_tree(PackageSet("libvirt", suite(name), _PACKAGES, _KEEP), provisioning)
    virsh = find_loader(tree.root).command(tree.root, find_program(tree.root, "virsh"))
    version = tree.version("libvirt-daemon").partition("-")[0]
    return LibvirtPackages(name, version, tree.root, tuple(virsh), _DRIVER)
