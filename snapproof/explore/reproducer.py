"""Writes a Python script that takes the steps of a list with QEMU alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests_functional.explore.commands import FOLDER
from tests_functional.explore.destinations import DESTINATIONS
from tests_functional.explore.guests import chosen_arguments
from tests_functional.explore.objects import PLUGGABLE
from tests_functional.explore.steps import Step, StepList

_HEAD = '''#!/usr/bin/env python3
# {sentence}
# Usage: {name} QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable or wrong usage, 3 it or QEMU did not work.
"""Takes steps that snapproof explore found, on a guest without a system whose RAM holds random bytes.

The defect shows if QEMU ends or does not answer, or if a save that no step has broken does not complete.
What a guest has to write itself is not shown by this script.
"""

import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SECONDS = 20
if len(sys.argv) != 2:
    sys.exit(print(f"Usage: {{sys.argv[0]}} QEMU", file=sys.stderr) or 2)
if not shutil.which(sys.argv[1]):
    sys.exit(print(f"'{{sys.argv[1]}}' is no program that can be run; name a QEMU.", file=sys.stderr) or 2)
qemu = None
FOLDER = tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp"))
CONTENT = Path(FOLDER.name, "content")
CONTENT.write_bytes(os.urandom(32 << 20))


def end(code, words):
    print(words, flush=True)
    if qemu:
        qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def broken(*error):
    sys.__excepthook__(*error)
    end(3, "This script did not work.")


sys.excepthook = broken


def ask(command, **arguments):
    """Give a command; return its result, or its refusal as text."""
    print("->", command, json.dumps(arguments))
    try:
        print(json.dumps({{"execute": command, "arguments": arguments}}), file=monitor, flush=True)
        while line := monitor.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                print("  ", answer["error"]["desc"])
                return answer["error"]["desc"]
    except TimeoutError:
        end(1, f"QEMU does not answer {{command}} within {{SECONDS}} s.")
    except ConnectionError:
        pass
    time.sleep(0.5)
    end(1, f"QEMU has ended: {{qemu.wait()}}.")


class Sink:
    """Reads a save from a socket or a command, at a speed that may change."""

    def __init__(self, number, by_command):
        self.speed = "slow"
        place = f"{{FOLDER.name}}/{{number}}"
        if by_command:
            os.mkfifo(place)
            self.uri = f"exec:cat > {{shlex.quote(place)}}"
            self.opened = lambda: open(place, "rb", buffering=0)
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(place)
            listener.listen(1)
            self.uri = f"unix:{{place}}"
            self.opened = lambda: listener.accept()[0].makefile("rb", buffering=0)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        stream = self.opened()
        while True:
            while self.speed == "stalled":
                time.sleep(0.02)
            if self.speed == "closed" or not stream.read(200_000):
                stream.close()
                return
            if self.speed == "slow":
                time.sleep(0.03)


def starve(left):
    """Let QEMU open only some files more; None takes the limit back."""
    highest = max(int(name) for name in os.listdir(f"/proc/{{qemu.pid}}/fd"))
    most = resource.prlimit(qemu.pid, resource.RLIMIT_NOFILE)[1]
    limit = most if left is None else highest + 1 + left
    resource.prlimit(qemu.pid, resource.RLIMIT_NOFILE, (limit, most))


def inside(command, tag):
    """Run a job that saves the guest into an image, or loads it from there."""
    image = f"{{FOLDER.name}}/image.qcow2"
    if not os.path.exists(image):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1G"], check=True)
        file = {{"driver": "file", "filename": image}}
        ask("blockdev-add", **{{"driver": "qcow2", "node-name": "image", "file": file}})
    ask(command, **{{"job-id": "job", "tag": tag, "vmstate": "image", "devices": ["image"]}})
    limit = time.monotonic() + SECONDS
    while True:
        job = next((job for job in ask("query-jobs") if job["id"] == "job"), {{"status": "concluded"}})
        if job["status"] == "concluded":
            break
        if time.monotonic() > limit:
            end(1, f"The job {{command}} does not end.")
        time.sleep(0.1)
    if job.get("error"):
        print("  ", job["error"])
    ask("job-dismiss", id="job")


def capability(on):
    setting = {{"capability": "background-snapshot", "state": on}}
    return ask("migrate-set-capabilities", capabilities=[setting])


def wait_save(wanted):
    limit = time.monotonic() + SECONDS
    while (answer := ask("query-migrate")).get("status") not in wanted:
        if time.monotonic() > limit:
            end(1, f"The save is still {{answer.get('status')}}.")
        time.sleep(0.1)
    return answer


saves = 0


def begin(golden=False, early=False, by_command=True):
    """Begin a save; a golden one stops the guest for T0."""
    global saves
    saves += 1
    sink = Sink(saves, by_command)
    refusal = capability(True)
    if refusal:
        end(2, f"QEMU refuses the capability: {{refusal}}")
    if golden:
        ask("stop")
    ask("migrate", uri=sink.uri)
    if early:
        return sink
    wait_save(("active", "completed", "failed"))
    time.sleep(0.3)
    if golden:
        ask("cont")
    return sink


def cancel_unconnected(snapshot):
    """Cancel a save whose socket nobody accepts, since others wait there already."""
    path = f"{{FOLDER.name}}/nobody"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    for one in waiting:
        one.setblocking(False)
        try:
            one.connect(path)
        except BlockingIOError:
            pass
    capability(snapshot)
    ask("migrate", uri=f"unix:{{path}}")
    ask("migrate_cancel")
    wait_save(("cancelled",))
    limit = time.monotonic() + SECONDS
    while any(one["type"] == "migration" for one in ask("query-yank")):
        if time.monotonic() > limit:
            end(1, "The save is cancelled, and QEMU does not clean up after it.")
        time.sleep(0.1)
    listener.close()
    os.unlink(path)
    capability(False)


def finish(sink, ends):
    sink.speed = "fast"
    answer = wait_save(("completed", "failed", "cancelled"))
    if answer["status"] not in ends or (answer["status"] == "failed" and not answer.get("error-desc")):
        end(1, f"The save ended as {{answer}}.")
    time.sleep(0.5)
    capability(False)


def settings():
    return ask("query-migrate-capabilities"), ask("query-migrate-parameters")


def last_snapshot():
    """Save a guest that runs once more, as after each list; not with other migration settings."""
    if settings() != first_settings:
        return
    state = ask("query-status")["status"]
    if state == "suspended":
        ask("system_wakeup")
    elif state != "running":
        ask("cont")
    finish(begin(), ["completed"])


ours, theirs = socket.socketpair()
qemu = subprocess.Popen(
    [
        sys.argv[1],
        *{arguments},
        *("-device", f"loader,file={{CONTENT}},addr=0x1000000,force-raw=on"),
        *("-chardev", f"socket,fd={{theirs.fileno()}},id=monitor", "-mon", "chardev=monitor,mode=control"),
    ],
    stdin=subprocess.DEVNULL,
    pass_fds=[theirs.fileno()],
)
theirs.close()
ours.settimeout(SECONDS)
monitor = ours.makefile("rw")
if not monitor.readline():
    end(3, "QEMU does not start.")
ask("qmp_capabilities")
first_settings = settings()
time.sleep(1)

'''
_TAIL = """
last_snapshot()
ask("quit")
try:
    code = qemu.wait(SECONDS)
except subprocess.TimeoutExpired:
    end(1, "QEMU does not quit.")
end(1 if code else 0, f"QEMU has quit with exit code {code}.")
"""


def _qmp(step: Step, _state: dict[str, Any]) -> list[str]:
    arguments = json.dumps(step.arguments["arguments"])
    text = repr(arguments) + (f".replace({FOLDER!r}, FOLDER.name)" if FOLDER in arguments else "")
    return [f"ask({step.arguments['command']!r}, **json.loads({text}))"]


def _begin(step: Step, state: dict[str, Any]) -> list[str]:
    if state.get("saving"):
        return []
    state.update(saving=True, ends=["completed"])
    golden = bool(step.arguments.get("golden")) and not state.get("stopped")
    early = bool(step.arguments.get("early")) and not state.get("stopped")
    by_command = step.arguments.get("transport", "exec") == "exec"
    return [f"sink = begin(golden={golden}, early={early}, by_command={by_command})"]


def _finish(_step: Step, state: dict[str, Any]) -> list[str]:
    if not state.pop("saving", None):
        return []
    return [f"finish(sink, {state['ends']!r})"]


def _in_save(lines: Callable[[Step, dict[str, Any]], list[str]]) -> Callable[..., list[str]]:
    return lambda step, state: lines(step, state) if state.get("saving") else []


def _cancel(_step: Step, state: dict[str, Any]) -> list[str]:
    state["ends"] = [*state["ends"], "cancelled"]
    return ['ask("migrate_cancel")']


def _sink(step: Step, state: dict[str, Any]) -> list[str]:
    if step.arguments["speed"] == "closed":
        state["ends"] = [*state["ends"], "failed"]
    return [f"sink.speed = {step.arguments['speed']!r}"]


def _stop(_step: Step, state: dict[str, Any]) -> list[str]:
    state["stopped"] = True
    return ['ask("stop")']


def _cont(_step: Step, state: dict[str, Any]) -> list[str]:
    state["stopped"] = False
    return ['ask("cont")']


def _snapshot(step: Step, state: dict[str, Any]) -> list[str]:
    if state.get("saving") or state.get("stopped"):
        return []
    if step.arguments["flow"] == "STOP_AND_SAVE":
        return [
            'ask("stop")', 'ask("migrate", uri="exec:cat > /dev/null")',
            'wait_save(("completed", "failed"))', "time.sleep(0.5)", 'ask("cont")',
        ]  # fmt: skip
    golden = step.arguments["flow"].startswith("STOP")
    return [f"finish(begin(golden={golden}), ['completed'])"]


def _sleep(step: Step, _state: dict[str, Any]) -> list[str]:
    return [f"time.sleep({step.arguments['seconds']})"]


def _freeze(step: Step, _state: dict[str, Any]) -> list[str]:
    return [
        "os.kill(qemu.pid, signal.SIGSTOP)",
        f"time.sleep({step.arguments['seconds']})",
        "os.kill(qemu.pid, signal.SIGCONT)",
    ]


def _plug(step: Step, _state: dict[str, Any]) -> list[str]:
    name = str(step.arguments["device"])
    device, lines = PLUGGABLE[name], []
    if device.backend is not None:
        backend = {**device.backend, "id": f"{name}-memory"}
        lines.append(f"ask('object-add', **json.loads({json.dumps(backend)!r}))")
    options = {"driver": device.driver, "id": name, **device.options}
    return [*lines, f"ask('device_add', **json.loads({json.dumps(options)!r}))"]


def _begin_starved(step: Step, state: dict[str, Any]) -> list[str]:
    if state.get("saving") or state.get("stopped"):
        return []
    state.update(saving=True, ends=["completed", "failed"])
    return [
        f"starve({step.arguments['left']})",
        "sink = begin()",
        "starve(None)",
    ]


def _save_nowhere(step: Step, state: dict[str, Any]) -> list[str]:
    given = json.dumps(DESTINATIONS[str(step.arguments["destination"])])
    ask = f"ask('migrate', **json.loads({given!r}))"
    if state.get("saving"):
        return [ask]
    return [f"capability({step.arguments['snapshot']})", ask, "time.sleep(2)", "capability(False)"]


def _cancel_unconnected(step: Step, state: dict[str, Any]) -> list[str]:
    return [] if state.get("saving") else [f"cancel_unconnected({step.arguments['snapshot']})"]


def _limit_bandwidth(step: Step, _state: dict[str, Any]) -> list[str]:
    return [f"ask('migrate-set-parameters', **{{'max-bandwidth': {step.arguments['bytes']}}})"]


def _next_tag(state: dict[str, Any]) -> str:
    state["tags"] = state.get("tags", 0) + 1
    return f"tag-{state['tags']}"


def _hmp(line: str) -> str:
    return f'ask("human-monitor-command", **{{"command-line": {line!r}}})'


# The ports of the PIIX4's power management, opened and told to sleep; see harness/qemu/acpi_sleep.py.
_SLEEP = [
    _hmp("o /w 0xcf8 0x80000b40"), _hmp("o /w 0xcfc 0x601"), _hmp("o /w 0xcf8 0x80000b80"),
    _hmp("o /b 0xcfc 1"), _hmp("o /h 0x604 0x2400"), "time.sleep(0.3)",
]  # fmt: skip

LINES: Mapping[str, Callable[[Step, dict[str, Any]], list[str]]] = {
    "begin": _begin,
    "finish": _finish,
    "snapshot": _snapshot,
    "cancel": _in_save(_cancel),
    "sink": _in_save(_sink),
    "stop": _stop,
    "cont": _cont,
    "reset": lambda step, _state: [
        _hmp("o /b 0x64 0xfe") if step.arguments.get("by_guest") else 'ask("system_reset")',
        "time.sleep(0.5)",
    ],
    "sleep": lambda _step, _state: _SLEEP,
    "wake": lambda _step, _state: ['ask("system_wakeup")', "time.sleep(0.3)"],
    "panic": lambda _step, _state: [_hmp("o /b 0x505 1")],
    "freeze": _freeze,
    "wait": _sleep,
    "migrate-again": _in_save(lambda _step, _state: ['ask("migrate", uri="exec:cat > /dev/null")']),
    "save-nowhere": _save_nowhere,
    "cancel-unconnected": _cancel_unconnected,
    "limit-bandwidth": _in_save(_limit_bandwidth),
    "info": lambda step, _state: [_hmp(f"info {step.arguments['what']}")],
    "qmp": _qmp,
    "qom-set": lambda step, _state: [f"ask('qom-set', **json.loads({json.dumps(dict(step.arguments))!r}))"],
    "read-memory": lambda step, _state: [
        f"ask('pmemsave', val={step.arguments['address']}, size={step.arguments['size']}, "
        "filename=f'{FOLDER.name}/memory')"
    ],
    "plug": _plug,
    "save-inside": lambda _step, state: [f"inside('snapshot-save', '{_next_tag(state)}')"],
    "load-inside": lambda _step, state: (
        [f"inside('snapshot-load', 'tag-{state['tags']}')"] if state.get("tags") else []
    ),
    "continue": lambda _step, _state: [
        "# Here the guest is restored and goes on, which this script does not do."
    ],
    "begin-starved": _begin_starved,
    "pattern": lambda _step, _state: [
        "# Here the guest writes another pattern, which this script does not do."
    ],
    "untouched": lambda _step, _state: [
        "# Here the guest writes to memory that nobody has touched, which this script does not do."
    ],
}
"""By kind of step: the lines of the script, from the step and the state after the steps before."""


def reproducer_text(steps: StepList, sentence: str, name: str = "reproduce.py") -> str:
    """Return the script for a list of steps."""
    state: dict[str, Any] = {}
    lines = [line for step in (*steps.steps, Step("finish")) for line in LINES[step.kind](step, state)]
    head = _HEAD.format(
        sentence=" ".join(sentence.split()), name=name, arguments=repr(tuple(_arguments(steps)))
    )
    return head + "\n".join(lines) + "\n" + _TAIL


def _arguments(steps: StepList) -> list[str]:
    guest = steps.guest
    words = [
        *("-machine", guest.machine, "-accel", guest.accel, "-nodefaults", "-display", "none"),
        *("-m", f"{guest.ram_mib}M", "-smp", str(guest.vcpus), "-action", "reboot=reset"),
    ]
    return [*words, *chosen_arguments(guest)]
