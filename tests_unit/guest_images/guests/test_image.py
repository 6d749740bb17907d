"""QEMU's wrapper, the agent's compilation and the catalogue, with stand-ins for what is downloaded."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from guest_images import catalogue
from guest_images.agent import build as agent_build
from guest_images.agent.build import Compiler, compile_agent, find_compiler, plan_agent
from guest_images.cache import Cache, publish_file, to_json
from guest_images.guests import image
from guest_images.guests.image import GuestImage, build_guest, built_guests
from guest_images.packages.unpacked import InputRecord, manifest_digest
from guest_images.provisioning import Provisioning
from guest_images.qemu.builds import (
    provision_qemu,
    provision_with_module,
    provisioned_qemus,
    wrapper_script,
)
from harness.errors import MachineryMissing, NotApplicable, SetupBroken, UsageError
from harness.qemu.architectures import (
    AARCH64,
    ARCHITECTURES,
    DEFAULT_ARCHITECTURE,
    RISCV64,
    X86_64,
    Architecture,
    find_architecture,
)
from tests_unit.support.elf_files import kernel_module, shared_object

LIBRARIES = f"usr/lib/{DEFAULT_ARCHITECTURE.triplet}"


def quiet(line: str) -> None:
    """Take log lines and drop them."""


def silent(line: str) -> None:
    """Fail at the first log line: nothing should have to be done."""
    raise AssertionError(line)


def plant_tree(cache: Cache, suite: str, name: str, packages: tuple[str, ...], record: InputRecord) -> Path:
    """Put a package tree into the cache as if it had been downloaded; return its root."""
    pointer = {"packages": packages, "manifest": [vars(record)]}
    publish_file(cache.path("resolved", f"{suite}-{name}.json"), to_json(pointer))
    root = cache.path("trees", f"{suite}-{name}-{manifest_digest([record])[:12]}", "root")
    root.mkdir(parents=True)
    return root


def plant_qemu(root: Path, program: str = DEFAULT_ARCHITECTURE.qemu) -> None:
    """Put a stand-in for QEMU into a tree: its loader is a script that prints how it was called."""
    (root / LIBRARIES).mkdir(parents=True)
    (root / "usr/bin").mkdir()
    (root / "usr/share/qemu").mkdir(parents=True)
    (root / "usr/bin" / program).write_text("")
    loader = root / LIBRARIES / DEFAULT_ARCHITECTURE.loader
    loader.write_text('#!/bin/sh\necho "$$ $QEMU_MODULE_DIR"\nfor word; do echo "$word"; done\n')
    loader.chmod(0o755)


def test_wrapper_runs_qemu_with_its_own_files(tmp_path: Path) -> None:
    """The script uses the packages' loader, libraries, modules and firmware, and keeps arguments and pid."""
    root = tmp_path / "moved here" / "root"
    plant_qemu(root)
    script = root.parent / DEFAULT_ARCHITECTURE.qemu
    publish_file(script, wrapper_script(root).encode(), 0o755)
    link = tmp_path / "link"
    link.symlink_to(script)
    process = subprocess.Popen([link, "-name", "two words"], cwd="/", stdout=subprocess.PIPE, text=True)
    words = process.communicate(timeout=20)[0].splitlines()
    assert words == [
        f"{process.pid} {root}/{LIBRARIES}/qemu",
        "--inhibit-cache",
        "--library-path",
        f"{root}/{LIBRARIES}",
        f"{root}/usr/bin/{DEFAULT_ARCHITECTURE.qemu}",
        "-L",
        f"{root}/usr/share/qemu",
        "-name",
        "two words",
    ]


def test_wrapper_needs_a_qemu(tmp_path: Path) -> None:
    """Packages without the QEMU program are an error when they are provisioned, not when QEMU is run."""
    with pytest.raises(SetupBroken, match=f"do not include the QEMU program '{DEFAULT_ARCHITECTURE.qemu}'"):
        wrapper_script(tmp_path)


def test_cached_qemu_needs_no_network(tmp_path: Path) -> None:
    """A QEMU in the cache is used without asking the mirror, and is listed."""
    cache = Cache(tmp_path)
    spec = catalogue.qemu_spec("debian-13")
    record = InputRecord(spec.emulates.qemu_packages[0], "1:10.0", "ab")
    plant_qemu(plant_tree(cache, "debian-13", "qemu", spec.emulates.qemu_packages, record))
    qemu = provision_qemu("debian-13", Provisioning(cache, silent))
    assert (qemu.name, qemu.version, qemu.manifest) == ("debian-13", "1:10.0", (record,))
    assert os.access(qemu.executable, os.X_OK)
    listed = {spec.name: found for spec, found in provisioned_qemus(cache).items()}
    assert listed["debian-13"] == qemu
    assert listed["debian-12"] is None


_MODULE = "qemu-system-modules-spice"


def _with_module(cache: Cache, version: str) -> Path:
    """Put a QEMU and one with a package of modules into a cache; return the executable of the first."""
    packages = catalogue.qemu_spec("debian-13").emulates.qemu_packages
    own = InputRecord(packages[0], "1:10.0", "ab")
    plant_qemu(plant_tree(cache, "debian-13", "qemu", packages, own))
    newer = InputRecord(packages[0], version, "cd")
    plant_qemu(plant_tree(cache, "debian-13", f"qemu-with-{_MODULE}", (*packages, _MODULE), newer))
    return provision_qemu("debian-13", Provisioning(cache, silent)).executable


def test_qemu_with_a_package_of_modules(tmp_path: Path) -> None:
    """It is another tree of the same version, and the QEMU of other tests stays as it is."""
    cache = Cache(tmp_path)
    own = _with_module(cache, "1:10.0")
    found = provision_with_module(own, _MODULE, Provisioning(cache, silent))
    assert found.name == own.name and found.parent != own.parent
    assert os.access(found, os.X_OK)


def test_package_of_modules_of_another_version(tmp_path: Path) -> None:
    """A test of one version must not run another one."""
    cache = Cache(tmp_path)
    own = _with_module(cache, "1:10.1")
    with pytest.raises(NotApplicable, match=r"is there for QEMU 1:10\.1 and not for 1:10\.0"):
        provision_with_module(own, _MODULE, Provisioning(cache, silent))


def test_package_of_modules_for_a_qemu_of_the_users(tmp_path: Path) -> None:
    """Nobody knows which packages it is made of."""
    cache = Cache(tmp_path)
    _with_module(cache, "1:10.0")
    with pytest.raises(NotApplicable, match="is none of the QEMUs for which"):
        provision_with_module(tmp_path / "own", _MODULE, Provisioning(cache, silent))


def test_qemu_for_another_architecture_is_another_package_set(tmp_path: Path) -> None:
    """One name stands for the QEMU programs of all architectures; each set is unpacked by itself."""
    cache = Cache(tmp_path)
    other = next(entry for entry in (AARCH64, X86_64) if entry.qemu != DEFAULT_ARCHITECTURE.qemu)
    record = InputRecord(other.qemu_packages[0], "1:10.0", "cd")
    root = plant_tree(cache, "debian-13", other.qemu, other.qemu_packages, record)
    plant_qemu(root, other.qemu)
    qemu = provision_qemu("debian-13", Provisioning(cache, silent), emulates=other)
    assert (qemu.executable.name, qemu.manifest) == (other.qemu, (record,))
    # It runs on this machine, so its libraries are this machine's.
    assert LIBRARIES in qemu.executable.read_text()


def test_qemu_of_arm64_hosts(tmp_path: Path) -> None:
    """The QEMU that runs arm64 hosts is that of its release for aarch64."""
    cache = Cache(tmp_path)
    name = "qemu" if AARCH64.qemu == DEFAULT_ARCHITECTURE.qemu else AARCH64.qemu
    root = plant_tree(
        cache, "debian-13", name, AARCH64.qemu_packages, InputRecord("qemu-system-arm", "1:10.0", "cd")
    )
    plant_qemu(root, AARCH64.qemu)
    of_hosts = provision_qemu("arm", Provisioning(cache, silent))
    assert of_hosts == replace(
        provision_qemu("debian-13", Provisioning(cache, silent), emulates=AARCH64), name="arm"
    )


def test_package_of_a_qemu_program_depends_on_the_release(tmp_path: Path) -> None:
    """Debian 12 has the programs of some architectures in one package, later releases one for each."""
    cache = Cache(tmp_path)
    older, newer = (InputRecord(name, "1:7.2", "ef") for name in ("qemu-system-misc", "qemu-system-riscv"))
    for release, record, packages in (
        ("debian-12", older, ("qemu-system-misc", "ipxe-qemu")),
        ("debian-13", newer, RISCV64.qemu_packages),
    ):
        plant_qemu(plant_tree(cache, release, RISCV64.qemu, packages, record), RISCV64.qemu)
        qemu = provision_qemu(release, Provisioning(cache, silent), emulates=RISCV64)
        assert (qemu.version, qemu.manifest) == ("1:7.2", (record,))


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    """The error for a misspelt name lists the valid ones."""
    with pytest.raises(UsageError, match="'debian-13-backports'"):
        provision_qemu("debian-31", Provisioning(Cache(tmp_path), quiet))
    with pytest.raises(UsageError, match="'default'"):
        build_guest("debian", Provisioning(Cache(tmp_path), quiet))


def test_catalogue_is_consistent() -> None:
    """Names are unique, every entry has a reason, and every suite that is named exists."""
    for entries in (catalogue.SUITES, catalogue.QEMUS, catalogue.GUESTS):
        names = [entry.name for entry in entries]
        assert len(set(names)) == len(names)
        assert all(entry.reason for entry in entries)
    for entry in (*catalogue.QEMUS, *catalogue.GUESTS):
        assert catalogue.suite(entry.suite).codename
        assert entry.architecture is catalogue.suite(entry.suite).architecture
    for guest in catalogue.GUESTS:
        # A guest and its busybox are built for the same processor.
        assert catalogue.userland_suite(guest.architecture).architecture is guest.architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda entry: entry.name)
def test_architectures_are_told_apart(architecture: Architecture) -> None:
    """Each is found by its name, and no two share a name of their Linux or of Debian."""
    assert find_architecture(architecture.name) is architecture
    for other in ARCHITECTURES:
        if other is not architecture:
            assert architecture.debian != other.debian
            assert architecture.triplet != other.triplet
            assert architecture.kernel_package != other.kernel_package


def test_unknown_architecture_lists_the_known_ones() -> None:
    """The error for a misspelt name lists the valid ones."""
    with pytest.raises(UsageError, match="no architecture 'x86-64' here, only 'x86_64', 'i686', 'aarch64'"):
        find_architecture("x86-64")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A C program that stands in for the agent."""
    folder = tmp_path / "sources"
    for name in ("core", "linux"):
        (folder / name).mkdir(parents=True)
    (folder / "linux/main.c").write_text('#include "core/code.h"\nint main(void) { return CODE; }\n')
    (folder / "core/code.h").write_text("#define CODE 7\n")
    return folder


def needs_compiler() -> None:
    """Skip where this machine has no C compiler."""
    try:
        find_compiler()
    except MachineryMissing as error:
        pytest.skip(error.sentence)


def test_agent_is_compiled_once(tmp_path: Path, sources: Path) -> None:
    """Equal sources are compiled once; a change, in a header too, compiles again."""
    needs_compiler()
    cache = Cache(tmp_path / "cache")
    first = compile_agent(plan_agent(cache, sources), Provisioning(cache, quiet))
    assert subprocess.run([first], check=False).returncode == 7
    assert compile_agent(plan_agent(cache, sources), Provisioning(cache, silent)) == first
    (sources / "core/code.h").write_text("#define CODE 8\n")
    assert (
        subprocess.run(
            [compile_agent(plan_agent(cache, sources), Provisioning(cache, quiet))], check=False
        ).returncode
        == 8
    )


def test_compile_error_is_one_sentence(tmp_path: Path, sources: Path) -> None:
    """The sentence has the compiler's first error and the evidence its output; nothing is published."""
    needs_compiler()
    (sources / "linux/main.c").write_text("int main(void) { return nonsense; }\n")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(SetupBroken, match="nonsense") as caught:
        compile_agent(plan_agent(cache, sources), Provisioning(cache, quiet))
    assert "\n" not in caught.value.sentence
    assert "nonsense" in caught.value.evidence.log_tail
    assert not cache.path("agent").exists()


def test_compiler_is_one_for_the_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `cc` with another target is not used; the one of ziglang gets the guest's target."""
    cc = tmp_path / "cc"
    cc.write_text("#!/bin/sh\necho x86_64-linux-gnu\n")
    cc.chmod(0o755)
    monkeypatch.setattr("shutil.which", {"cc": str(cc)}.get)
    monkeypatch.setattr("importlib.util.find_spec", {"ziglang": "found"}.get)
    assert find_compiler(X86_64).command == (str(cc),)
    assert find_compiler(AARCH64).command[-2:] == ("-target", "aarch64-linux-musl")


def test_no_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names cc and ziglang as remedies if both are missing."""
    monkeypatch.setattr("shutil.which", {}.get)
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    with pytest.raises(MachineryMissing, match=r"'gcc'.*extra 'cc'.* -m pip install --editable '.*\[cc\]'"):
        find_compiler()


def test_no_sources_says_so(tmp_path: Path) -> None:
    """An installation without the agent's sources is reported as such."""
    with pytest.raises(SetupBroken, match="sources are not in"):
        plan_agent(Cache(tmp_path), tmp_path / "absent")


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache with packages that make a guest, and a compiled agent."""
    cache = Cache(tmp_path / "cache")
    spec = catalogue.guest_spec("default")
    assert isinstance(spec, catalogue.GuestSpec)
    packages = (spec.architecture.kernel_package,)
    kernel = plant_tree(cache, spec.suite, "kernel", packages, InputRecord("linux", "6", "k"))
    drivers = kernel / "lib/modules/6-test/kernel"
    drivers.mkdir(parents=True)
    (kernel / "boot").mkdir()
    (kernel / "boot/vmlinuz-6-test").write_bytes(b"bzImage")
    for name in ("pci", "net", "blk", "rng", "balloon", "console"):
        (drivers / f"virtio_{name}.ko").write_bytes(kernel_module(depends=""))
    userland = plant_tree(
        cache,
        catalogue.userland_suite().name,
        "userland",
        catalogue.USERLAND_PACKAGES,
        InputRecord("busybox", "1", "u"),
    )
    (userland / "bin").mkdir()
    (userland / "bin/busybox").write_bytes(b"busybox")
    (userland / "bin/dropbear").write_bytes(shared_object())
    monkeypatch.setattr(agent_build, "find_compiler", lambda _: Compiler(("false",), "compiler 1"))
    publish_file(plan_agent(cache).executable, b"agent", 0o755)
    return cache


def test_guest_is_built_once_and_repeats(filled: Cache) -> None:
    """The second build returns the first one; a new build from equal inputs is byte-identical."""
    assert built_guests(Provisioning(filled, silent))[catalogue.guest_spec("default")] is None
    first = build_guest("default", Provisioning(filled, quiet))
    assert build_guest("default", Provisioning(filled, silent)) == first
    assert built_guests(Provisioning(filled, silent))[catalogue.guest_spec("default")] == first
    assert first.initrd is not None
    content = first.initrd.read_bytes()
    for path in first.initrd.parent.iterdir():
        path.unlink()
    first.initrd.parent.rmdir()
    assert build_guest("default", Provisioning(filled, quiet)) == first
    assert first.initrd.read_bytes() == content


def test_guest_describes_itself(filled: Cache) -> None:
    """A guest names its files, login, digest and every input, and writes them beside the image."""
    guest = build_guest("default", Provisioning(filled, quiet))
    assert isinstance(guest, GuestImage)
    assert guest.kernel is not None and guest.initrd is not None
    assert guest.kernel.read_bytes() == b"bzImage"
    assert guest.cmdline.startswith(f"console={DEFAULT_ARCHITECTURE.console} loglevel=5 panic=-1 ")
    assert guest.architecture is DEFAULT_ARCHITECTURE
    assert guest.ssh_host_key_line.startswith("ssh-ed25519 ")
    assert len(guest.digest) == 64
    names = [record.name for record in guest.manifest]
    assert names == ["linux", "busybox", "agent source", "agent compiler", "guest keys", "image builder"]
    assert (guest.initrd.parent / "manifest.json").is_file()


def test_changed_input_gives_another_image(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys, and other code that shapes the image, give another image."""
    first = build_guest("default", Provisioning(filled, quiet))
    assert first.ssh_private_key is not None
    first.ssh_private_key.unlink()
    second = build_guest("default", Provisioning(filled, quiet))
    assert second.digest != first.digest
    assert second.initrd != first.initrd
    monkeypatch.setattr(image, "_builder_record", lambda: InputRecord("image builder", "x", "y"))
    assert build_guest("default", Provisioning(filled, quiet)).initrd not in (first.initrd, second.initrd)
