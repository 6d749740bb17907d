"""Looks at what libvirt says of a domain, beside what its QEMU says."""

from __future__ import annotations

import re

from harness.attach.monitor import MonitorUnusable
from harness.attach.virsh import Domain
from harness.errors import SetupBroken

JOB = "job of libvirt"
"""Name of the fact that says what libvirt does with the domain."""

# libvirt 11.3 tools/virsh-host.c, cmdVersion().
_DAEMON = re.compile(r"Running against daemon: (\S+)")
_JOB = re.compile(r"Job type:\s*(.+)")
_NO_JOB = "None"


def libvirt_facts(domain: Domain) -> dict[str, str]:
    """Return facts in the order of printing.

    Raises:
        SetupBroken: libvirt does not answer.
    """
    # `domname` takes no name.
    uuid = _ask(domain, "domuuid", domain.name)
    return {
        "libvirt": _version(domain),
        "connection": _ask(domain, "uri"),
        "domain": f"{_ask(domain, 'domname', uuid)} ({uuid})",
        JOB: job(_ask(domain, "domjobinfo", domain.name)) or "none",
    }


def job(text: str) -> str:
    """Return the kind of job in the output of `virsh domjobinfo`, "" for none."""
    match = _JOB.search(text)
    found = match[1].strip() if match else ""
    return "" if found == _NO_JOB else found


def _version(domain: Domain) -> str:
    try:
        match = _DAEMON.search(domain.ask("version", "--daemon"))
    except MonitorUnusable:
        # It first asks for the hypervisor, of which libvirt may find none where it looks.
        match = None
    return match[1] if match else f"unknown; virsh is {_ask(domain, '--version')}"


def _ask(domain: Domain, *words: str) -> str:
    try:
        return domain.ask(*words)
    except MonitorUnusable as error:
        raise SetupBroken(str(error)) from error
