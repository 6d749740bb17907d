"""Runs `snapproof images`: lists, fetches and builds the guests, QEMUs and kernels of the catalogue."""

from __future__ import annotations

import argparse
import shlex
import sys

from guest_images.catalogue import guest_spec
from guest_images.guests.image import GuestImage, build_guest, built_guests
from guest_images.hosts.image import build_host, built_hosts
from guest_images.hosts.kernel_build import build_kernel, built_kernels
from guest_images.provisioning import Provisioning
from guest_images.qemu.builds import provision_qemu, provisioned_qemus
from snapproof.runs.stack import cache_at
from validators.native.build import build_core


def list_images(arguments: argparse.Namespace) -> int:
    """Print the catalogue, and which of its images are in the cache."""
    cache = cache_at(arguments.cache)
    print("Guests:")
    for guest, image in built_guests(Provisioning(cache, _log)).items():
        state = f"built, {image.digest[:12]}" if image else "not built"
        print(f"  {guest.name:22} {state:24} {guest.reason}")
    print("QEMUs:")
    for spec, qemu in provisioned_qemus(cache).items():
        state = qemu.version if qemu else "not fetched"
        print(f"  qemu:{spec.name:22} {state:34} {spec.reason}")
    print("Hosts:")
    for host, fetched in built_hosts(cache).items():
        print(f"  host:{host.name:22} {'fetched' if fetched else 'not fetched':34} {host.reason}")
    print("Kernels to compile:")
    for kernel, compiled in built_kernels(cache).items():
        print(f"  kernel:{kernel.name:20} {compiled.release if compiled else 'not built':34} {kernel.reason}")
    return 0


def build_image(arguments: argparse.Namespace) -> int:
    """Build one guest, host or kernel or fetch one QEMU, and print where it is."""
    provisioning = Provisioning(cache_at(arguments.cache), _log, arguments.mirror)
    kind, _, name = arguments.name.rpartition(":")
    refresh = arguments.refresh
    if kind == "qemu":
        qemu = provision_qemu(name, provisioning, refresh=refresh)
        print(f"{qemu.executable} ({qemu.version})")
        return 0
    if kind == "host":
        host = build_host(name, provisioning, refresh=refresh)
        print(f"{host.kernel} (Linux {host.release})\n{host.initrd}\n{host.disk.path}\ndigest {host.digest}")
        return 0
    if kind == "kernel":
        kernel = build_kernel(name, provisioning, refresh=refresh)
        print(f"{kernel.image} (Linux {kernel.release})")
        return 0
    if arguments.name == "core":
        print(build_core(provisioning))
        return 0
    guest_spec(arguments.name)
    image = build_guest(arguments.name, provisioning, refresh=refresh)
    print(f"{image.kernel}\n{image.initrd}\ndigest {image.digest}")
    if image.disk:
        print(f"{image.disk.path}\nAs if it were yours: {shlex.join(_as_own(image))}")
    return 0


def _as_own(image: GuestImage) -> list[str]:
    """Return the command that runs a guest with a disk by the options for a user's own guest."""
    options = {
        "disk": image.disk.path if image.disk else "",
        "kernel": image.kernel,
        "initrd": image.initrd,
        "cmdline": image.cmdline,
        "ssh-user": image.ssh_user,
        "ssh-key": image.ssh_private_key,
        "ssh-host-key": image.ssh_host_key_line,
        "guest-needs": image.own_mib,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["snapproof", "run", "--profile", "smoke", *words]


def _log(text: str) -> None:
    print(text, file=sys.stderr)
