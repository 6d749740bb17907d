"""Kernels that we compile: their configurations, the check of a finished one, and the steps of the build."""

from __future__ import annotations

import shutil
import tarfile
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from guest_images.cache import Cache, publish_file, to_json
from guest_images.hosts import kernel_build
from guest_images.hosts.kernel_build import (
    SOURCE,
    build_kernel,
    built_kernels,
    compile_kernel,
    missing_tools,
    require_tools,
)
from guest_images.hosts.kernel_config import (
    KERNELS,
    KernelSpec,
    SourceEdit,
    check_config,
    edited,
    kernel_spec,
    parse_symbols,
    read_fragment,
    remove_selects,
)
from guest_images.packages.unpacked import InputRecord, Tree, manifest_digest
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import MachineryMissing, SetupBroken, UsageError
from harness.process import session_members

_KCONFIG = """\
config X86
\tselect HAVE_ARCH_TRANSPARENT_HUGEPAGE
\tselect HAVE_ARCH_USERFAULTFD_WP         if X86_64 && USERFAULTFD
\tselect HAVE_ARCH_USERFAULTFD_MINOR\tif X86_64 && USERFAULTFD
"""
# Stands for Linux: the same targets and files, and `olddefconfig` that may not give what it is asked for.
_MAKEFILE = """\
tinyconfig:
\techo '# CONFIG_SMP is not set' > .config
olddefconfig:
\t@CONFIG@
bzImage:
\t@IMAGE@
\tmkdir -p arch/x86/boot include/config
\techo image > arch/x86/boot/bzImage
\techo 6.12.0-tiny > include/config/kernel.release
"""
_KEEPS_LAST = (
    'tac .config | awk \'{ n = $$1 == "#" ? $$2 : $$1; sub(/=.*/, "", n) } !s[n]++\' > new && mv new .config'
)
# Writes the pid of make, so that the test knows when compiling has begun.
_SLEEPS = "echo $$PPID; sleep 1000"


def test_catalogue_of_kernels_is_consistent() -> None:
    """Each kernel has a reason, a release that names it, and a configuration with each symbol once."""
    for spec in KERNELS:
        text = read_fragment(spec)
        assert spec.reason
        assert kernel_spec(spec.name) is spec
        names = [line for line in text.splitlines() if "CONFIG_" in line]
        assert len(parse_symbols(text)) == len(names)
        assert parse_symbols(text)["LOCALVERSION"] == f'"-{spec.name}"'
        assert all(parse_symbols(text)[symbol] == "n" for symbol in spec.not_selected)
    assert len({spec.name for spec in KERNELS}) == len(KERNELS)
    with pytest.raises(UsageError, match="'uffd', 'no-uffd-wp', 'no-userfaultfd'"):
        kernel_spec("none")


def test_kernels_differ_in_userfaultfd_alone() -> None:
    """The configurations differ in userfaultfd alone, so a difference in QEMU is due to it."""
    ours = {"LOCALVERSION", "USERFAULTFD", "HAVE_ARCH_USERFAULTFD_WP", "PTE_MARKER_UFFD_WP"}
    specs = [kernel_spec(name) for name in ("uffd", "no-uffd-wp", "no-userfaultfd")]
    rest = [
        {name: value for name, value in parse_symbols(read_fragment(spec)).items() if name not in ours}
        for spec in specs
    ]
    assert rest[0] == rest[1] == rest[2]
    assert [spec.features & 1 for spec in specs] == [1, 0, 0]
    assert [bool(spec.features) for spec in specs] == [True, True, False]


def test_kernel_with_a_bug_differs_from_the_control_in_its_source_alone() -> None:
    """What such a kernel does otherwise is due to its edit; no two have the same one."""
    control = parse_symbols(read_fragment(kernel_spec("uffd")))
    specs = [spec for spec in KERNELS if spec.edits]
    for spec in specs:
        assert parse_symbols(read_fragment(spec)) == {**control, "LOCALVERSION": f'"-{spec.name}"'}
        assert spec.features == kernel_spec("uffd").features
    assert len({spec.edits for spec in specs}) == len(specs) >= 6


def test_debug_kernel_has_what_the_control_has_and_more() -> None:
    """A splat there can be of anything that the control does."""
    control = parse_symbols(read_fragment(kernel_spec("uffd")))
    debug = parse_symbols(read_fragment(kernel_spec("debug")))
    assert {name for name in control if control[name] != debug.get(name)} == {"LOCALVERSION"}
    for name in ("KASAN", "PROVE_LOCKING", "DEBUG_VM", "DEBUG_LIST", "PROVE_RCU", "LKDTM"):
        assert debug[name] == "y"


def test_edit_wants_its_text_once() -> None:
    """A source that has the text nowhere or twice is not the expected one; the error names file and text."""
    edit = SourceEdit("mm/a.c", "if (a)", "if (false)")
    assert edited("x\nif (a)\ny\n", edit) == "x\nif (false)\ny\n"
    for text, count in (("x\n", 0), ("if (a) if (a)", 2)):
        with pytest.raises(SetupBroken, match=f"mm/a.c .* 'if .a.' in {count} places"):
            edited(text, edit)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("CONFIG_USERFAULTFD=y\nCONFIG_NR_CPUS=8\n", None),
        ("CONFIG_USERFAULTFD=y\nCONFIG_NR_CPUS=8\n# CONFIG_HAVE_ARCH_USERFAULTFD_WP is not set\n", None),
        ("CONFIG_NR_CPUS=8\n", "USERFAULTFD is n instead of y"),
        ("# CONFIG_USERFAULTFD is not set\nCONFIG_NR_CPUS=8\n", "USERFAULTFD is n instead of y"),
        ("CONFIG_USERFAULTFD=m\nCONFIG_NR_CPUS=8\n", "USERFAULTFD is m instead of y"),
        ("CONFIG_USERFAULTFD=y\nCONFIG_NR_CPUS=64\n", "NR_CPUS is 64 instead of 8"),
        (
            "CONFIG_USERFAULTFD=y\nCONFIG_NR_CPUS=8\nCONFIG_HAVE_ARCH_USERFAULTFD_WP=y\n",
            "HAVE_ARCH_USERFAULTFD_WP is y instead of n",
        ),
    ],
)
def test_symbol_that_is_not_as_wanted_is_refused(config: str, said: str | None) -> None:
    """The error names each symbol that `make olddefconfig` dropped, added or changed."""
    wanted = parse_symbols(
        "CONFIG_USERFAULTFD=y\nCONFIG_NR_CPUS=8\n# CONFIG_HAVE_ARCH_USERFAULTFD_WP is not set\n# a remark\n"
    )
    if said is None:
        check_config(wanted, config)
        return
    with pytest.raises(SetupBroken) as caught:
        check_config(wanted, config)
    assert caught.value.sentence.endswith(f": {said}.")


def test_line_that_selects_a_symbol_is_taken_out() -> None:
    """Only that line is removed; no line or several is an error, since the source is not the expected one."""
    without = remove_selects(_KCONFIG, ("HAVE_ARCH_USERFAULTFD_WP",))
    assert set(_KCONFIG.splitlines()) - set(without.splitlines()) == {
        "\tselect HAVE_ARCH_USERFAULTFD_WP         if X86_64 && USERFAULTFD"
    }
    assert remove_selects(_KCONFIG, ()) == _KCONFIG
    for kconfig, count in ((without, 0), (_KCONFIG * 2, 2)):
        with pytest.raises(SetupBroken, match=f"HAVE_ARCH_USERFAULTFD_WP in {count} places"):
            remove_selects(kconfig, ("HAVE_ARCH_USERFAULTFD_WP",))


def test_missing_tools_are_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence names the packages to install for all missing tools, and for a missing header."""
    for program in ("bc", "gzip", "ld", "make", "tar", "xz"):
        (tmp_path / program).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_tools() == ["bison", "flex", "gcc"]
    (tmp_path / "gcc").symlink_to("/bin/false")
    assert missing_tools() == ["bison", "flex", "libelf-dev"]
    with pytest.raises(MachineryMissing, match="'apt-get install bison flex libelf-dev'"):
        require_tools(missing_tools())
    (tmp_path / "gcc").unlink()
    for program in ("bison", "flex", "gcc"):
        (tmp_path / program).symlink_to("/bin/true")
    assert missing_tools() == []
    require_tools(missing_tools())


def _source(folder: Path, config: str, image: str) -> Tree:
    """Lay out an unpacked source package with a stand-in for Linux."""
    missing = [program for program in ("make", "tar", "xz") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {missing[0]}")
    linux = folder / "linux-source"
    (linux / "arch/x86").mkdir(parents=True)
    (linux / "arch/x86/Kconfig").write_text(_KCONFIG)
    for edit in (edit for spec in KERNELS for edit in spec.edits):
        (linux / edit.file).parent.mkdir(parents=True, exist_ok=True)
        with (linux / edit.file).open("a") as file:
            file.write(f"{edit.old}\n")
    (linux / "Makefile").write_text(_MAKEFILE.replace("@CONFIG@", config).replace("@IMAGE@", image))
    (folder / "root/usr/src").mkdir(parents=True)
    with tarfile.open(folder / f"root/usr/src/{SOURCE}.tar.xz", "w:xz") as tar:
        tar.add(linux, SOURCE)
    return Tree(folder, "", ())


def _compile(folder: Path, spec: KernelSpec, config: str = _KEEPS_LAST, image: str = "true") -> str:
    """Compile a stand-in for Linux; image and log are in `made` below the folder."""
    source = _source(folder, config, image)
    (folder / "made").mkdir()
    return compile_kernel(spec, source, folder / "linux", folder / "made", folder / "kept.log")


def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch, image: str = "true") -> Cache:
    """Make a cache with the source package, and pretend that all programs for compiling are installed."""
    if shutil.which("gcc") is None or shutil.which("ld") is None:
        pytest.skip("no gcc")
    monkeypatch.setattr(kernel_build, "missing_tools", list)
    cache = Cache(folder / "cache")
    record = InputRecord(SOURCE, "6.12.0-1", "0" * 64)
    name = f"{kernel_build.SUITE}-kernel-source"
    _source(cache.path("trees", f"{name}-{manifest_digest([record])[:12]}"), _KEEPS_LAST, image)
    pointer = {"packages": [SOURCE], "manifest": [asdict(record)]}
    publish_file(cache.path("resolved", f"{name}.json"), to_json(pointer))
    return cache


def test_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel is compiled once and found again, but not for another compiler; no temporary file is left."""
    cache, said = _cache(tmp_path, monkeypatch), list[str]()
    assert not any(built_kernels(cache).values())
    built = build_kernel("no-uffd-wp", Provisioning(cache, said.append))
    assert built.image.read_text() == "image\n"
    assert built.release == "6.12.0-tiny"
    assert "selects HAVE_ARCH_USERFAULTFD_WP." in said[1]
    said.clear()
    assert build_kernel("huge-zero-bug", Provisioning(cache, said.append)).release == "6.12.0-tiny"
    assert "mm/huge_memory.c: 'if (pmd_uffd_wp(old_pmd))' becomes 'if (false)'." in said[1]
    assert "bzImage" in cache.path("kernels/no-uffd-wp.log").read_text()
    assert not list(cache.path("tmp").iterdir())
    said.clear()
    assert build_kernel("no-uffd-wp", Provisioning(cache, said.append)) == built
    assert not said
    assert {spec.name for spec, found in built_kernels(cache).items() if found} == {
        "no-uffd-wp",
        "huge-zero-bug",
    }
    monkeypatch.setattr(kernel_build, "_toolchain", lambda: "another compiler")
    assert not any(built_kernels(cache).values())


def test_kernel_that_failed_leaves_only_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed build the cache has its log and no kernel."""
    cache = _cache(tmp_path, monkeypatch, image="echo cc1 is ill; false")
    with pytest.raises(SetupBroken, match=r"'make \.\.\. bzImage'"):
        build_kernel("uffd", Provisioning(cache, lambda _: None))
    assert [path.name for path in cache.path("kernels").iterdir()] == ["uffd.log"]
    assert "cc1 is ill" in cache.path("kernels/uffd.log").read_text()
    assert not list(cache.path("tmp").iterdir())


@pytest.mark.parametrize("spec", KERNELS, ids=[spec.name for spec in KERNELS])
def test_build_gives_image_configuration_and_log(tmp_path: Path, spec: KernelSpec) -> None:
    """A build makes image, configuration and log; wanted symbols win over those of `tinyconfig`."""
    assert _compile(tmp_path, spec) == "6.12.0-tiny"
    made = tmp_path / "made"
    assert (made / f"bzImage-{spec.name}").read_text() == "image\n"
    assert parse_symbols((made / "config").read_text())["SMP"] == "y"
    assert "bzImage" in (made / "build.log").read_text()
    selected = "select HAVE_ARCH_USERFAULTFD_WP " in (tmp_path / "linux/arch/x86/Kconfig").read_text()
    assert selected is (spec.name != "no-uffd-wp")
    for file in {edit.file for kernel in KERNELS for edit in kernel.edits}:
        text = (tmp_path / "linux-source" / file).read_text()
        for edit in spec.edits:
            text = edited(text, edit) if edit.file == file else text
        assert (tmp_path / "linux" / file).read_text() == text


def test_wrong_configuration_is_refused_before_compiling(tmp_path: Path) -> None:
    """A symbol that comes back, since another one selects it, is an error before the compiler runs."""
    stubborn = f"{_KEEPS_LAST}; sed -i 's/.*CONFIG_USERFAULTFD is not set/CONFIG_USERFAULTFD=y/' .config"
    with pytest.raises(SetupBroken, match="USERFAULTFD is y instead of n"):
        _compile(tmp_path, kernel_spec("no-userfaultfd"), stubborn)
    assert not list((tmp_path / "made").glob("bzImage*"))


def test_failed_compiler_is_told_with_its_log(tmp_path: Path) -> None:
    """The sentence names the failed step, and the evidence has the end of the log."""
    with pytest.raises(SetupBroken, match=r"'make \.\.\. bzImage' ended with exit code 2") as caught:
        _compile(tmp_path, KERNELS[0], image="echo cc1 is ill; false")
    assert "cc1 is ill" in caught.value.evidence.log_tail
    assert caught.value.evidence.paths == (tmp_path / "kept.log",)


def test_nothing_goes_on_compiling_after_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the time limit make and all processes that it started are killed."""
    log = tmp_path / "made/build.log"

    class ExpiresWhileCompiling(Deadline):
        """Expires once the log ends with the pid that make writes, however long the steps before it took."""

        def remaining(self) -> float:
            return 0.0 if _last_line(log).isdigit() else super().remaining()

    monkeypatch.setattr(kernel_build, "Deadline", ExpiresWhileCompiling)
    begun = time.monotonic()
    with pytest.raises(SetupBroken, match="was not compiled within 3600 s"):
        _compile(tmp_path, KERNELS[0], image=_SLEEPS)
    assert time.monotonic() - begun < 60
    make = int(_last_line(log))
    assert not Path(f"/proc/{make}").exists()
    assert not session_members(make)


def _last_line(log: Path) -> str:
    """Return the last line of a log if it is complete, otherwise an empty string."""
    text = log.read_text()
    return text.splitlines()[-1] if text.endswith("\n") else ""
