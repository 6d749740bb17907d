"""Contract: a clone has the same machine, and nothing by which it could change or disturb the other one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.attach.clone_argv import (
    AGENT,
    Clone,
    clone_argv,
    find_chardev,
    format_value,
    link_word,
    parse_value,
)
from harness.attach.pins import PinnedDisk, Pins

_FOLDER = Path("/clone")


def _clone(text: str, sizes: dict[str, int] | None = None) -> Clone:
    return clone_argv(tuple(text.split()), _FOLDER, sizes or {}, lambda _path: 4096)


def _argv(text: str) -> str:
    words = " ".join(_clone(text).argv)
    return words.removesuffix(" -display none -monitor none").removesuffix("-display none -monitor none")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("-machine pc -m 128 -device virtio-rng-pci", "-machine pc -m 128 -device virtio-rng-pci"),
        ("--library-path /lib /usr/bin/qemu -m 1", "--library-path /lib /usr/bin/qemu -m 1"),
        ("-qmp unix:/q,server=on -m 1", "-m 1"),
        ("--qmp unix:/q -S -daemonize -pidfile /p", ""),
        ("-chardev socket,id=mon,fd=3 -mon chardev=mon,mode=control", "-chardev null,id=mon"),
        ("-serial stdio", "-serial null"),
        ("-serial chardev:x", "-serial chardev:x"),
        ("-serial none", "-serial none"),
        ("-nographic", "-serial null"),
        ("-netdev tap,fd=30,id=net0,vhost=on", "-netdev hubport,hubid=0,id=net0"),
        ("-nic user,model=virtio,mac=5:1", "-nic user,model=virtio,mac=5:1,restrict=on"),
        (
            "-netdev user,id=n,net=10.0.9.0/24,hostfwd=tcp::1-:2,restrict=off,tftp=/srv",
            "-netdev user,id=n,net=10.0.9.0/24,restrict=on",
        ),
        ("-nic none", "-nic none"),
        ("-net nic,model=e1000 -net user", "-net nic,model=e1000"),
        ("-vnc :1 -spice port=1 -vga std", "-vga std"),
        ("-add-fd set=0,fd=5", ""),
        ("-mem-path /dev/shm/ram", ""),
        ("-sandbox on,spawn=deny", "-sandbox on,spawn=deny"),
        ('-audiodev {"id":"audio1","driver":"none"}', "-audiodev none,id=audio1"),
        ("-audiodev pa,id=a,server=/run/pulse", "-audiodev none,id=a"),
    ],
)  # fmt: skip
def test_options(given: str, made: str) -> None:
    """Each option is kept, replaced or left out; none of the replaced leads out of the clone."""
    assert _argv(given) == made


def test_changes_are_said() -> None:
    """Each difference is a sentence."""
    clone = _clone("-qmp unix:/q -serial stdio -nic user -m 1")
    assert clone.changes == [
        "Left out: '-qmp unix:/q' (monitor).",
        "'-serial stdio' leads nowhere.",
        "The network 'user' leads nowhere.",
    ]
    assert clone.impossible == []


def test_memory_is_not_shared() -> None:
    """A file that holds the other guest's RAM would be overwritten by the restore."""
    clone = _clone("-object memory-backend-file,id=ram,size=128M,mem-path=/dev/shm/x,share=on")
    assert clone.argv[:2] == ["-object", "memory-backend-ram,id=ram,size=128M"]
    text = '{"qom-type":"memory-backend-file","id":"ram","size":134217728,"mem-path":"/x","share":true}'
    assert _clone(f"-object {text}").argv[:2] == ["-object", "memory-backend-ram,id=ram,size=134217728"]
    assert "anonymous" in clone.changes[0]


def test_secrets_have_other_values() -> None:
    """The file of a secret belongs to the other QEMU; what refers to the secret still finds one."""
    clone = _clone('-object {"qom-type":"secret","id":"masterKey0","format":"raw","file":"/key"}')
    assert clone.argv[1].startswith("secret,id=masterKey0,data=")
    assert "/key" not in " ".join(clone.argv)
    assert _clone("-object secret,id=s,data=abc").argv[1] == "secret,id=s,data=abc"


def test_drives_are_only_read(tmp_path: Path) -> None:
    """Writes go to an overlay; the base has no lock, since the other QEMU has it."""
    clone = _clone("-drive file=/disk.img,format=raw,if=virtio,id=d,snapshot=on")
    options = parse_value(clone.argv[1])
    assert options == {
        "if": "virtio", "id": "d", "format": "qcow2", "file": "/dev/fdset/900",
        "backing.driver": "raw", "backing.file.driver": "file", "backing.file.filename": "/disk.img",
        "backing.file.locking": "off",
    }  # fmt: skip
    assert [(overlay.path.name, overlay.size) for overlay in clone.overlays] == [("overlay-00.qcow2", 4096)]
    image = tmp_path / "image"
    image.write_bytes(b"QFI\xfb" + bytes(100))
    assert parse_value(_clone(f"-hda {image}").argv[1])["backing.driver"] == "qcow2"


def test_read_only_drives_need_no_overlay() -> None:
    """A CD and UEFI firmware are opened for reading, without a lock."""
    for given in ("-drive if=pflash,format=raw,readonly=on,file=/code", "-drive media=cdrom,file=/cd.iso"):
        clone = _clone(given)
        assert clone.overlays == []
        options = parse_value(clone.argv[1])
        assert options["file.locking"] == "off"
        assert "file" not in options
    assert _clone("-drive if=none,id=empty").argv[1] == "if=none,id=empty"


def test_nodes_are_only_read() -> None:
    """A writable node at the top of a chain gets an overlay by its name; all below it is read-only."""
    text = (
        '-blockdev {"driver":"file","filename":"/d.qcow2","node-name":"s","auto-read-only":true} '
        '-blockdev {"driver":"qcow2","node-name":"f","file":"s","read-only":false} '
        "-blockdev driver=raw,node-name=cd,read-only=on,file.driver=file,file.filename=/cd"
    )
    clone = _clone(text, {"f": 1 << 20})
    nodes = [parse_value(value) for value in clone.argv[1:8:2]]
    assert nodes[0] == {
        "driver": "file", "filename": "/d.qcow2", "node-name": "s", "read-only": True, "locking": "off"
    }  # fmt: skip
    assert nodes[1] == {"driver": "qcow2", "node-name": "snapproof-1", "file": "s", "read-only": True}
    assert nodes[2]["node-name"] == "f"
    assert nodes[2]["backing"] == "snapproof-1"
    assert nodes[2]["file.filename"] == "/dev/fdset/900"
    assert nodes[3]["file.locking"] == "off"
    assert nodes[3]["node-name"] == "cd"
    assert [overlay.size for overlay in clone.overlays] == [1 << 20]


def test_nodes_of_libvirt_keep_their_types() -> None:
    """A null, a number and a nested node stay what they are; QEMU takes no other for them."""
    text = (
        '-blockdev {"driver":"qcow2","node-name":"f","backing":null,"l2-cache-size":1024,'
        '"file":{"driver":"file","filename":"/d"}}'
    )
    base = json.loads(_clone(text, {"f": 1 << 20}).argv[1])
    assert (base["backing"], base["l2-cache-size"], base["read-only"]) == (None, 1024, True)
    assert base["file"] == {"driver": "file", "filename": "/d", "locking": "off"}
    flat = _clone("-blockdev driver=raw,node-name=r,file.driver=host_device,file.filename=/dev/x").argv[1]
    assert parse_value(flat)["file.locking"] == "off"
    assert parse_value(flat)["read-only"] == "on"


@pytest.mark.parametrize(
    "given",
    [
        "-device vhost-user-blk-pci,chardev=c",
        "-device vfio-pci,host=01:00.0",
        "-device usb-host,vendorid=1",
        "-tpmdev emulator,id=t,chardev=c",
        "-readconfig vm.cfg",
        "-netdev user,id=n,guestfwd=tcp:10.0.2.9:1-chardev:c",
        "-netdev user,id=n,smb=/srv",
        "-object filter-dump,id=f,netdev=n,file=/capture",
        "-object input-linux,id=i,evdev=/dev/input/event0",
        '-object {"qom-type":"filter-dump","id":"f","netdev":"n","file":"/capture"}',
        "-netdev tap,id=n,fd=30 -device virtio-net-pci,netdev=n",
        '-netdev {"type":"tap","id":"n","vhost":true} -device {"driver":"virtio-net-pci","netdev":"n"}',
        "-nic bridge,model=virtio-net-pci",
        "-drive file.driver=nbd,file.host=x",
        '-blockdev {"driver":"file","filename":"/dev/fdset/1","node-name":"n"}',
    ],
)
def test_what_a_second_qemu_cannot_have(given: str) -> None:
    """It is said before a QEMU is started."""
    assert len(_clone(given).impossible) == 1


@pytest.mark.parametrize(
    "given",
    [
        "-netdev tap,id=n,vnet_hdr=off -device virtio-net-pci,netdev=n",
        "-netdev tap,id=n -device e1000,netdev=n",
        "-netdev user,id=n -device virtio-net-pci,netdev=n",
    ],
)
def test_networks_without_headers(given: str) -> None:
    """The state of their cards says nothing of a header, so it can be loaded."""
    assert _clone(given).impossible == []


def test_missing_image_is_said() -> None:
    """A disk that cannot be read is a sentence and no traceback."""

    def fail(_path: Path) -> int:
        raise FileNotFoundError(2, "No such file")

    clone = clone_argv(("-hda", "/gone"), _FOLDER, {}, fail)
    assert clone.impossible == ["The disk '/gone' cannot be read: No such file."]


def test_values_survive() -> None:
    """Commas are doubled, and a switch in QEMU's short form is on."""
    assert parse_value("user,id=a,path=/a,,b,server", "type") == {
        "type": "user", "id": "a", "path": "/a,b", "server": "on"
    }  # fmt: skip
    assert format_value({"path": "/a,b"}) == "path=/a,,b"


@pytest.mark.parametrize(
    ("option", "rest"),
    [
        ("-pflash", {"if": "pflash"}),
        ("-sd", {"if": "sd"}),
        ("-mtdblock", {"if": "mtd"}),
        ("-fda", {"if": "floppy", "index": "0"}),
        ("-fdb", {"if": "floppy", "index": "1"}),
        ("-hdd", {"media": "disk", "index": "3"}),
    ],
)
def test_short_options_of_disks_are_only_read(option: str, rest: dict[str, str]) -> None:
    """None gets the VM's own file to write to, with any name."""
    clone = _clone(f"{option} /vm,1.img")
    assert clone.argv[0] == "-drive"
    options = parse_value(clone.argv[1])
    assert options.items() >= rest.items()
    assert options["file"] == "/dev/fdset/900"
    assert options["backing.file.filename"] == "/vm,1.img"
    assert "/vm,1.img" not in clone.argv


@pytest.mark.parametrize(
    "given", ["-object iothread,id=i", "-object memory-backend-memfd,id=m,size=1M", "-object rng-random,id=r"]
)
def test_harmless_objects_stay(given: str) -> None:
    """They are needed, or the devices would be others."""
    clone = _clone(given)
    assert clone.impossible == []
    assert clone.argv[:2] == given.split()


_PINS = Pins((PinnedDisk("top", "/vm.img", "pin-0"),), Path("/run/nbd"))


def _with_pins(given: str, channel: str = "") -> Clone:
    return clone_argv(tuple(given.split()), _FOLDER, {"top": 7 << 20}, lambda _path: 1 << 20, _PINS, channel)


@pytest.mark.parametrize("form", ["text", "json"])
def test_pinned_node_is_read_from_the_vm(form: str) -> None:
    """Its overlay lies above the disk of T0, in place of the VM's own node, and is of the same size."""
    file, top = "driver=file,node-name=low,filename=/vm.img", "driver=raw,node-name=top,file=low"
    if form == "json":
        file = '{"driver":"file","node-name":"low","filename":"/vm.img","discard":true}'
        top = '{"driver":"raw","node-name":"top","file":"low","discard":true}'
    clone = _with_pins(f"-blockdev {file} -blockdev {top}")
    nodes = [parse_value(word) for word in clone.argv if "node-name" in word]
    base = next(node for node in nodes if node["node-name"] == "snapproof-1")
    assert base == {
        "driver": "nbd", "server.type": "fd", "server.str": link_word("pin-0"), "export": "pin-0",
        "read-only": "on", "node-name": "snapproof-1",
    }  # fmt: skip
    assert next(node for node in nodes if node["node-name"] == "top")["backing"] == "snapproof-1"
    assert (clone.links, clone.overlays[0].size) == (["pin-0"], 7 << 20)
    assert any("as it was at T0" in change for change in clone.changes)


def test_pinned_drive_is_found_by_its_file() -> None:
    """A `-drive` has no name of its own; another file stays the one of now."""
    clone = _with_pins("-drive file=/vm.img,format=raw,if=virtio -drive file=/other.img,format=raw")
    pinned, other = (parse_value(word) for word in clone.argv if "backing" in word)
    assert pinned["backing.driver"] == "nbd"
    assert pinned["backing.server.str"] == link_word("pin-0")
    assert pinned["if"] == "virtio"
    assert other["backing.file.filename"] == "/other.img"
    assert clone.links == ["pin-0"]
    assert sum("as it was at T0" in change for change in clone.changes) == 1


@pytest.mark.parametrize(
    "device",
    [
        "virtserialport,bus=b.0,chardev=c1,id=x,name=org.test.0",
        '{"driver":"virtserialport","chardev":"c1","name":"org.test.0"}',
    ],
)
def test_channel_of_the_guest_agent_leads_to_us(device: str) -> None:
    """That one alone; the others lead nowhere."""
    given = f"-chardev socket,id=c0,fd=5 -chardev socket,id=c1,fd=6,server=on -device {device}"
    clone = _with_pins(given, "org.test.0")
    assert clone.argv[1] == "null,id=c0"
    assert clone.argv[3] == f"socket,id=c1,fd={link_word(AGENT)}"
    assert clone.links == [AGENT]
    assert _with_pins(given, "org.other.0").links == []
    assert _with_pins(given).links == []
    assert find_chardev(("-device", "virtio-serial,name=org.test.0,chardev=c"), "org.test.0") == ""
