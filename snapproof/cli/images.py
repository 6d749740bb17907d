"""`snapproof images`: what can be booted and what can boot it; fetch and build it."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from guest_images.catalogue import guest_spec
from guest_images.guests.image import GuestImage, build_guest, built_guests
from guest_images.hosts.image import build_host, built_hosts
from guest_images.hosts.kernel_build import build_kernel, built_kernels
from guest_images.qemu.builds import provision_qemu, provisioned_qemus
from snapproof.cli.help_text import help_text
from snapproof.runs.stack import cache_of


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "images",
        help="list or build guests, QEMUs and host kernels",
        **help_text(
            "The catalogue of guests to boot, QEMUs to boot them with, and host kernels to run QEMU on. "
            "All of it comes from Debian packages, without root, into the cache; 'run' and 'hosts' fetch "
            "what they need by themselves. Kernels of 'kernel:NAME' are compiled from Debian's source.",
            "images list",
            "images build qemu:debian-13",
        ),
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache folder (default: $SNAPPROOF_CACHE)")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list",
        help="what the catalogue has and what is built",
        **help_text(
            "Prints each guest, QEMU, host and kernel with its state and the reason why it is there.",
            "images list",
        ),
    )
    listing.set_defaults(run=list_images)
    build = actions.add_parser(
        "build",
        help="fetch or build one",
        **help_text(
            "Fetches the packages of one guest, QEMU, host or kernel, builds it where it is not in the "
            "cache, and prints where it is.",
            "images build default",
            "images build qemu:debian-13 --refresh    # the newest packages",
            "images build host:debian-11              # a VM with Linux 5.10",
            "images build kernel:no-uffd-wp           # compiled, in minutes",
        ),
    )
    build.add_argument("name", metavar="NAME", help="a guest, qemu:NAME, host:NAME or kernel:NAME")
    build.add_argument("--mirror", metavar="URL", help="Debian mirror instead of the machine's own")
    build.add_argument("--refresh", action="store_true", help="look for newer packages")
    build.set_defaults(run=build_image)


def list_images(arguments: argparse.Namespace) -> int:
    """Print the catalogue with what is in the cache."""
    cache = cache_of(arguments)
    print("Guests:")
    for guest, image in built_guests(cache, _log).items():
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
    cache = cache_of(arguments)
    kind, _, name = arguments.name.rpartition(":")
    options = {"mirror": arguments.mirror, "refresh": arguments.refresh}
    if kind == "qemu":
        qemu = provision_qemu(name, cache, _log, **options)
        print(f"{qemu.executable} ({qemu.version})")
        return 0
    if kind == "host":
        host = build_host(name, cache, _log, **options)
        print(f"{host.kernel} (Linux {host.release})\n{host.initrd}\n{host.disk.path}\ndigest {host.digest}")
        return 0
    if kind == "kernel":
        kernel = build_kernel(name, cache, _log, **options)
        print(f"{kernel.image} (Linux {kernel.release})")
        return 0
    guest_spec(arguments.name)
    image = build_guest(arguments.name, cache, _log, **options)
    print(f"{image.kernel}\n{image.initrd}\ndigest {image.digest}")
    if image.disk:
        print(f"{image.disk.path}\nAs if it were yours: {shlex.join(_as_own(image))}")
    return 0


def _as_own(image: GuestImage) -> list[str]:
    """The command that runs a guest with a disk by the options for a user's own."""
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
