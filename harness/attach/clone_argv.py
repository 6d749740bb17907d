"""Makes the command line of a QEMU that restores another one's snapshot and can harm nothing of it.

The clone has the same machine and devices. Its network is off, its character devices lead nowhere, its disks
are overlays over the disks of the other one, which it only reads, and no memory of it is shared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.attach.pins import NO_PINS, PinnedDisk, Pins

AGENT = "agent"
"""Name of the link to the guest agent of a clone."""

# Options of QEMU 11.1 qemu-options.hx that take a value and are left out.
_DROPPED = {
    "qmp": "monitor", "qmp-pretty": "monitor", "monitor": "monitor", "mon": "monitor", "gdb": "debugger",
    "qtest": "test interface", "qtest-log": "test interface", "pidfile": "file of the process id",
    "D": "log file", "d": "log file", "trace": "trace", "incoming": "source of a migration",
    "loadvm": "internal snapshot", "runas": "change of user", "run-with": "change of user or root",
    "chroot": "change of root", "display": "display", "vnc": "display", "spice": "display",
    "mem-path": "file of guest RAM", "add-fd": "descriptor", "writeconfig": "file",
}  # fmt: skip
# The same for options without a value.
_DROPPED_FLAGS = {
    "daemonize": "", "S": "", "s": "debugger", "nographic": "console on the terminal", "snapshot": "",
    "curses": "display", "sdl": "display", "gtk": "display", "full-screen": "display", "preconfig": "",
}  # fmt: skip
_NULLED = ("serial", "parallel")
# Options that are a `-drive` with a file, of which these are the other parts (QEMU 11.1 system/vl.c).
_IMAGES = {
    "hda": "index=0,media=disk", "hdb": "index=1,media=disk", "hdc": "index=2,media=disk",
    "hdd": "index=3,media=disk", "fda": "if=floppy,index=0", "fdb": "if=floppy,index=1",
    "pflash": "if=pflash", "sd": "if=sd", "mtdblock": "if=mtd",
}  # fmt: skip
# Objects of QEMU 11.1 qapi/qom.json that write no file and reach nothing outside of QEMU.
_HARMLESS_OBJECTS = (
    "memory-backend-ram", "memory-backend-memfd", "iothread", "thread-context", "main-loop", "secret",
    "rng-random", "rng-builtin", "rng-egd", "throttle-group",
    "cryptodev-backend", "cryptodev-backend-builtin",
    "authz-simple", "authz-list", "can-bus", "acpi-generic-initiator",
)  # fmt: skip
# Devices whose other side is a process or a device of the host that the clone cannot have.
_FOREIGN_DEVICES = ("vhost-", "vfio-", "usb-host", "ivshmem-doorbell", "scsi-generic", "scsi-block")
# QEMU 11.1 backends/: memory that may be, or is, a file.
_FILE_MEMORY = ("memory-backend-file", "memory-backend-shm", "memory-backend-epc")
# QEMU 10.0 net/tap.c: networks whose packets have a header of virtio-net, unless they are told not to.
_TAPS = ("tap", "bridge")
# QEMU 10.0 net/slirp.c: what connects a user network with the host, and its kind.
_OUTWARD = ("type", "hostfwd", "guestfwd", "smb", "smbserver", "tftp", "bootfile", "restrict")
# Sets of the clone's own; those of the other QEMU are left out.
_FIRST_SET = 900
_PROTOCOLS_WITH_LOCKS = ("file", "host_device")

Options = dict[str, str]


@dataclass(frozen=True)
class Overlay:
    """An empty qcow2 file that takes the writes of one of the clone's disks.

    Attributes:
        path: where it is to be made.
        size: of the disk in the guest, in bytes.
        number: of the descriptor set as which QEMU is to be given it, since it may run as another user, in
            another mount namespace.
    """

    path: Path
    size: int
    number: int

    @property
    def file(self) -> str:
        """QEMU's name for it."""
        return f"/dev/fdset/{self.number}"


@dataclass
class Clone:
    """The command line of a clone.

    Attributes:
        argv: without a monitor and without `-incoming`.
        changes: what is different, a sentence each.
        overlays: files that have to be made first.
        impossible: what a clone cannot have, a sentence each; with any, none can be started.
        links: names of the sockets that it has to be given, whose numbers stand in `argv` as `link_word`.
    """

    argv: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    overlays: list[Overlay] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def add(self, option: str, value: str) -> None:
        """Add an option with its value."""
        self.argv += [f"-{option}", value]

    def link(self, name: str) -> str:
        """Have a socket given to it, and return the word for its number."""
        self.links.append(name)
        return link_word(name)


def link_word(name: str) -> str:
    """Return what stands for the number of a socket as long as that is not known."""
    return f"@{name}@"


def clone_argv(
    argv: tuple[str, ...],
    folder: Path,
    node_sizes: Mapping[str, int],
    image_size: Callable[[Path], int],
    pins: Pins = NO_PINS,
    channel: str = "",
) -> Clone:
    """Return the command line of a clone.

    Args:
        argv: the other QEMU's, its program first, and before that perhaps a program loader with options.
        folder: receives the overlays.
        node_sizes: bytes of each block node by its name, as the guest sees it.
        image_size: returns the bytes of a disk image as the guest sees it; raises OSError.
        pins: disks that are read as they were at T0.
        channel: name of the virtio-serial port that is linked to us, as AGENT.
    """
    clone = Clone()
    drives = _Drives(clone, folder, node_sizes, image_size, pins)
    linked = find_chardev(argv, channel) if channel else ""
    nodes: list[dict[str, Any]] = []
    words = list(argv)
    serials = 0
    while words:
        word = words.pop(0)
        name = word.lstrip("-") if word.startswith("-") else ""
        if name in _DROPPED_FLAGS:
            _say_dropped(clone, word, _DROPPED_FLAGS[name])
        elif name in _DROPPED and words:
            _say_dropped(clone, f"{word} {words.pop(0)}", _DROPPED[name])
        elif name in _NULLED and words:
            value = words.pop(0)
            serials += name == "serial"
            clone.add(name, value if value == "none" or value.startswith("chardev:") else "null")
            if clone.argv[-1] == "null":
                clone.changes.append(f"'{word} {value}' leads nowhere.")
        elif name == "chardev" and words:
            _chardev(clone, words.pop(0), linked)
        elif name in ("netdev", "nic", "net") and words:
            _network(clone, name, words.pop(0))
        elif name == "audiodev" and words:
            _audio(clone, words.pop(0))
        elif name == "blockdev" and words:
            nodes.append(parse_value(words.pop(0), "driver"))
        elif name == "drive" and words:
            drives.drive(words.pop(0))
        elif name in _IMAGES and words:
            drives.drive(f"file={words.pop(0).replace(',', ',,')},{_IMAGES[name]}")
        elif name == "object" and words:
            _object(clone, words.pop(0))
        elif name == "device" and words:
            _device(clone, words.pop(0))
        elif name in ("fsdev", "virtfs") and words:
            value = words.pop(0)
            clone.add(name, value if "readonly=on" in value else f"{value},readonly=on")
            clone.changes.append(f"The shared folder '{value}' is read-only.")
        elif name in ("tpmdev", "readconfig", "xen-attach") and words:
            clone.impossible.append(f"'{word} {words.pop(0)}' cannot be given to a second QEMU.")
        else:
            clone.argv.append(word)
    drives.nodes(nodes)
    _no_headers(clone, argv)
    if "nographic" in " ".join(clone.changes) and not serials:
        clone.add("serial", "null")
    clone.argv += ["-display", "none", "-monitor", "none"]
    return clone


def parse_value(text: str, first: str = "") -> dict[str, Any]:
    """Parse an option's value: JSON, or pairs of key and value in which a comma is doubled.

    Args:
        text: the value.
        first: the key of a first part that has none.
    """
    if text.startswith("{"):
        return dict(json.loads(text))
    found: dict[str, Any] = {}
    for part in text.replace(",,", "\0").split(","):
        key, equals, value = part.replace("\0", ",").partition("=")
        if equals:
            found[key] = value
        elif first and not found:
            found[first] = key
        else:
            # QEMU's short form of a switch.
            found[key] = "on"
    return found


def format_value(options: Mapping[str, str]) -> str:
    """Return options as pairs of key and value."""
    return ",".join(f"{key}={str(value).replace(',', ',,')}" for key, value in options.items())


def _say_dropped(clone: Clone, words: str, what: str) -> None:
    clone.changes.append(f"Left out: '{words}'{f' ({what})' if what else ''}.")


def find_chardev(argv: tuple[str, ...], channel: str) -> str:
    """Return the character device of the virtio-serial port of a name, "" if there is none."""
    for option, value in pairwise(argv):
        if option.lstrip("-") != "device":
            continue
        device = parse_value(value, "driver")
        if (device.get("driver"), device.get("name")) == ("virtserialport", channel):
            return str(device.get("chardev", ""))
    return ""


def _chardev(clone: Clone, value: str, linked: str) -> None:
    name = parse_value(value, "backend").get("id", "")
    if name and name == linked:
        clone.add("chardev", f"socket,id={name},fd={clone.link(AGENT)}")
        clone.changes.append(f"Character device '{name}' leads to snapproof, in place of '{value}'.")
        return
    clone.add("chardev", f"null,id={name}")
    if not value.startswith("null"):
        clone.changes.append(f"Character device '{name}' leads nowhere, in place of '{value}'.")


def _audio(clone: Clone, value: str) -> None:
    """Add a sound output of the same name that is heard nowhere, since devices refer to it."""
    options = parse_value(value, "driver")
    if options.get("driver") != "none":
        clone.changes.append(f"The sound '{value}' is not heard.")
    clone.add("audiodev", f"none,id={options.get('id', '')}")


def _network(clone: Clone, option: str, value: str) -> None:
    options = parse_value(value, "type")
    kind = str(options.get("type", ""))
    if option == "net":
        if kind == "nic":
            clone.add(option, value)
        else:
            _say_dropped(clone, f"-net {value}", "network")
        return
    if kind == "none":
        clone.add(option, value)
        return
    if kind == "user":
        # It has a state of its own in the file, which only another one can load.
        if "guestfwd" in options or "smb" in options:
            clone.impossible.append(
                f"The network '{value}' has a server of its own, whose state is in the file."
            )
        inside: Options = {key: str(value) for key, value in options.items() if key not in _OUTWARD}
        clone.add(option, f"user,{format_value({**inside, 'restrict': 'on'})}")
        clone.changes.append(f"The network '{value}' leads nowhere.")
        return
    kept: Options = {key: str(options[key]) for key in ("id", "model", "mac", "mac-addr") if key in options}
    clone.add(option, f"hubport,hubid=0,{format_value(kept)}".rstrip(","))
    clone.changes.append(f"The network '{value}' is off.")


def _no_headers(clone: Clone, argv: tuple[str, ...]) -> None:
    """Say that no clone takes the state of a virtio-net on a tap network, whose packets have a header.

    QEMU 10.0 hw/net/virtio-net.c, virtio_net_vnet_post_load(), refuses such a state where the network has no
    such headers, and one without a connection has none. All kinds of it have them unless `vnet_hdr=off`.
    """
    if not any("virtio" in word for word in argv):
        return
    for option, value in pairwise(argv):
        if option.lstrip("-") not in ("netdev", "nic", "net"):
            continue
        options = parse_value(value, "type")
        if options.get("type") in _TAPS and str(options.get("vnet_hdr", "on")) in ("on", "True"):
            clone.impossible.append(
                f"The network '{value}' has packets with a header, and virtio-net does not load such a state "
                "on a network without a connection."
            )


def _object(clone: Clone, value: str) -> None:
    options = parse_value(value, "qom-type")
    kind, name = str(options.get("qom-type", "")), str(options.get("id", ""))
    if kind == "secret" and ("file" in options or "keyid" in options):
        other = {"id": name, "data": "c25hcHByb29m", "format": "base64"}
        clone.add("object", f"secret,{format_value(other)}")
        clone.changes.append(f"The secret '{name}' has another value.")
        return
    if kind.startswith("tls-creds"):
        _say_dropped(clone, f"-object {value}", "keys")
        return
    if kind in _FILE_MEMORY:
        kept: Options = {key: str(options[key]) for key in ("id", "size") if key in options}
        clone.add("object", f"memory-backend-ram,{format_value(kept)}")
        clone.changes.append(f"The memory '{name}' is anonymous, in place of '{value}'.")
        return
    if kind not in _HARMLESS_OBJECTS:
        clone.impossible.append(f"The object '{kind}' is not known to be harmless in a second QEMU.")
    clone.add("object", value)


def _device(clone: Clone, value: str) -> None:
    options = parse_value(value, "driver")
    driver = str(options.get("driver", ""))
    if driver.startswith(_FOREIGN_DEVICES):
        clone.impossible.append(f"The device '{driver}' cannot be given to a second QEMU.")
    clone.add("device", value)


class _Drives:
    """Puts overlays over disks."""

    def __init__(
        self,
        clone: Clone,
        folder: Path,
        node_sizes: Mapping[str, int],
        image_size: Callable[[Path], int],
        pins: Pins,
    ) -> None:
        self._clone, self._folder, self._pins = clone, folder, pins
        self._node_sizes, self._image_size = node_sizes, image_size

    def drive(self, value: str) -> None:
        """Add a `-drive` whose file is an overlay, or is only read."""
        options = parse_value(value)
        name = options.pop("file", None)
        if name is None or any(key.startswith("file.") for key in options):
            if name is None and not any(key.startswith("file.") for key in options):
                # A drive without a medium.
                self._clone.add("drive", value)
            else:
                self._clone.impossible.append(f"'-drive {value}' is in a form that snapproof does not know.")
            return
        path = Path(str(name))
        form = str(options.pop("format", "") or _format_of(path))
        options.pop("snapshot", None)
        locked = {"driver": "file", "filename": str(path), "locking": "off"}
        if "on" in (options.get("readonly"), options.get("read-only")) or options.get("media") == "cdrom":
            prefixed = {"driver": form, **{f"file.{key}": text for key, text in locked.items()}}
            self._clone.add("drive", format_value({**options, **prefixed}))
            return
        try:
            size = self._image_size(path)
        except OSError as error:
            self._clone.impossible.append(f"The disk '{path}' cannot be read: {error.strerror}.")
            return
        overlay, pin = self._overlay(size), self._pins.of_file(str(path))
        backing = {"driver": form, **{f"file.{key}": text for key, text in locked.items()}}
        if pin is not None:
            backing = self._pinned(pin)
        self._clone.add(
            "drive",
            format_value(
                {
                    **options,
                    "format": "qcow2",
                    "file": overlay.file,
                    **{f"backing.{key}": text for key, text in backing.items()},
                }
            ),
        )
        self._say(str(path), overlay, pin)

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        """Add the `-blockdev` nodes, all read-only, and an overlay over each that a device writes to."""
        below = {str(value) for node in nodes for key, value in node.items() if key in ("file", "backing")}
        for node in nodes:
            name = str(node.get("node-name", ""))
            writable = node.get("read-only") not in (True, "on")
            # QEMU's pairs of key and value have no null and no numbers, which libvirt's JSON has.
            on: Any = "on" if all(isinstance(value, str) for value in node.values()) else True
            read = _without_locks(node) | {"read-only": on}
            read.pop("auto-read-only", None)
            if str(node.get("filename", "")).startswith("/dev/fdset/"):
                self._clone.impossible.append(f"The disk node '{name}' is a descriptor that QEMU was given.")
            if writable and name not in below:
                self._with_overlay(name, read)
            else:
                self._clone.add("blockdev", _node_text(read))

    def _with_overlay(self, name: str, node: dict[str, Any]) -> None:
        overlay, base = self._overlay(self._node_sizes.get(name, 0)), f"snapproof-{len(self._clone.overlays)}"
        pin = self._pins.of_node(name)
        if pin is not None:
            node = {**self._pinned(pin), "read-only": "on"}
        self._clone.add("blockdev", _node_text({**node, "node-name": base}))
        top = {"driver": "qcow2", "node-name": name, "file.driver": "file"}
        top |= {"file.filename": overlay.file, "backing": base}
        self._clone.add("blockdev", format_value(top))
        self._say(name, overlay, pin)

    def _pinned(self, pin: PinnedDisk) -> dict[str, Any]:
        """Return the node that reads a disk as it was at T0, from the QEMU that has pinned it."""
        number = self._clone.link(pin.export)
        return {"driver": "nbd", "server.type": "fd", "server.str": number, "export": pin.export}

    def _overlay(self, size: int) -> Overlay:
        number = len(self._clone.overlays)
        overlay = Overlay(self._folder / f"overlay-{number:02d}.qcow2", size, _FIRST_SET + number)
        self._clone.overlays.append(overlay)
        return overlay

    def _say(self, disk: str, overlay: Overlay, pin: PinnedDisk | None) -> None:
        how = "only read, without a lock" if pin is None else "read as it was at T0, from the VM's QEMU"
        self._clone.changes.append(
            f"The disk '{disk}' is {how}; writes go to the overlay '{overlay.path.name}'."
        )


def _without_locks(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node whose files are opened without a lock, be it nested or with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found[key] = _without_locks(value) if isinstance(value, Mapping) else value
        if key.rpartition(".")[2] == "driver" and value in _PROTOCOLS_WITH_LOCKS:
            found[f"{key.removesuffix('driver')}locking"] = "off"
    return found


def _node_text(node: Mapping[str, Any]) -> str:
    """Return a node as it was given: as pairs of key and value, or as JSON."""
    if all(isinstance(value, str) for value in node.values()):
        return format_value(node)
    return json.dumps(node)


def _format_of(path: Path) -> str:
    """Return the format that QEMU would find in an image, of the two that it is asked for here."""
    try:
        with path.open("rb") as file:
            return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
    except OSError:
        return "raw"
