"""Runs `snapproof attach`: looks at a VM that runs already, and proves a snapshot of it."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from harness.attach.machine import AttachedMachine
from harness.attach.virsh import Domain
from harness.errors import SnapproofError
from harness.status import EXIT_PASS, Status, exit_code
from snapproof.cli.attach_guest import guest_way, require_usable
from snapproof.cli.streams import shown
from snapproof.cli.verdict_text import outcome_lines
from snapproof.report.run_result import OutcomeRecord, RunResult
from snapproof.runs.events import Progress
from snapproof.runs.results_folder import now, own_results_folder, write_reproducer, write_results
from tests_functional.attach.look import Look, look
from tests_functional.attach.prove import AttachOptions, prove
from tests_functional.lib.outcome import Outcome, from_error
from tests_functional.lib.run import remove_heavy


def attach(arguments: argparse.Namespace) -> int:
    """Look at the VM or prove a snapshot of it, and return the exit code that `--help` explains."""
    require_usable(arguments)
    return _look(arguments) if arguments.look else _prove(arguments)


def _way(arguments: argparse.Namespace) -> Path | Domain:
    """Return the way to the VM that the command line names."""
    if arguments.libvirt is None:
        return Path(arguments.qmp)
    return Domain(arguments.libvirt, arguments.virsh, arguments.connect)


def _name(arguments: argparse.Namespace) -> str:
    return "attach.qmp" if arguments.libvirt is None else "attach.libvirt"


def _look(arguments: argparse.Namespace) -> int:
    # Nothing is left of a look.
    folder = Path(tempfile.mkdtemp(prefix="snapproof-look-"))
    try:
        with AttachedMachine(_way(arguments), folder, arguments.max_stop) as machine:
            found = look(machine, (arguments.results or Path()).absolute())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _print_look(found)
    return exit_code([one.status for one in found.obstacles]) if found.obstacles else EXIT_PASS


def _print_look(found: Look) -> None:
    for name, value in found.facts.items():
        print(f"{name}: {shown(value)}")
    for note in found.notes:
        print(f"note: {shown(note)}")
    for obstacle in found.obstacles:
        print(f"{obstacle.status.value}: {shown(obstacle.sentence)}")
    if not found.obstacles:
        print("Nothing is in the way of a background snapshot.")


def _prove(arguments: argparse.Namespace) -> int:
    progress, started, begun = Progress(), now(), time.monotonic()
    folder = own_results_folder(arguments.results, "attach-")
    name = _name(arguments)
    place = folder / "tests" / name
    place.mkdir(parents=True)
    options = AttachOptions(
        name,
        not arguments.no_golden,
        not arguments.no_restore,
        arguments.seconds,
        pin=not arguments.no_pin,
        through_libvirt=arguments.through_libvirt,
    )
    try:
        outcome = _outcome(arguments, options, place, progress)
    except BaseException:
        # It is what the guest has in memory, and no result names it.
        if not arguments.keep:
            remove_heavy(place)
        print(f"The VM is put back by the guard of this command; its log is in {place}.", file=sys.stderr)
        raise
    finally:
        progress.done()
    if outcome.status is Status.PASS and not arguments.keep:
        remove_heavy(place)
    outcome.save(place)
    command = _command(arguments)
    write_reproducer(place, command, outcome.sentence)
    record = OutcomeRecord.from_json({**outcome.to_json(), "folder": str(place.relative_to(folder))})
    result = RunResult([record], started, time.monotonic() - begun, command, outcome.environment)
    write_results(folder, result)
    for line in outcome_lines(record):
        print(line)
    print(f"Results: {folder}")
    return result.exit_code


def _outcome(
    arguments: argparse.Namespace, options: AttachOptions, place: Path, progress: Progress
) -> Outcome:
    begun = time.monotonic()
    try:
        with (
            guest_way(arguments, _way(arguments), progress.step) as guest,
            AttachedMachine(_way(arguments), place, arguments.max_stop) as machine,
        ):
            return prove(machine, replace(options, guest=guest), place, progress.step)
    except SnapproofError as error:
        return from_error(_name(arguments), error, time.monotonic() - begun, {})


def _command(arguments: argparse.Namespace) -> list[str]:
    way = _way(arguments)
    if isinstance(way, Domain):
        named = ["--libvirt", way.name, "--virsh", way.virsh]
        named += ["--connect", way.uri] if way.uri else []
    else:
        named = ["--qmp", str(way.absolute())]
    words = ["snapproof", "attach", *named]
    words += ["--max-stop", f"{arguments.max_stop:g}", "--seconds", f"{arguments.seconds:g}"]
    words += ["--no-golden"] * arguments.no_golden + ["--no-restore"] * arguments.no_restore
    words += ["--through-libvirt"] * arguments.through_libvirt
    words += ["--no-pin"] * arguments.no_pin + ["--keep"] * arguments.keep
    if arguments.guest_agent is not None:
        words += ["--guest-agent", *([arguments.guest_agent] if arguments.guest_agent else [])]
    if arguments.ssh is not None:
        words += ["--ssh", arguments.ssh, "--ssh-user", arguments.ssh_user]
        words += ["--ssh-key", str(arguments.ssh_key.absolute())]
        words += ["--ssh-host-key", arguments.ssh_host_key] if arguments.ssh_host_key else []
    return [*shlex.split(shlex.join([sys.executable, "-m"])), "snapproof.cli.command", *words[1:]]
