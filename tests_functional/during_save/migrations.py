"""Commands about migration that are given while RAM is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import NotApplicable
from harness.qemu import migration
from harness.qemu.qapi_schema import read_schema
from tests_functional.during_save.sinks import descriptor_sink, socket_sink
from tests_functional.during_save.thing import Place, Thing, command, commands, in_turn, nothing
from tests_functional.refusals.migration_options import parameter_options, settings

_MODE = "mode"
_CANCELLED = frozenset({"cancelled"})


_SINKS = {
    "socket": ("another program reads the state from a socket", socket_sink),
    "descriptor": ("libvirt opens the file itself and passes QEMU a pipe by getfd", descriptor_sink),
}


def _set_capabilities(place: Place) -> None:
    """Switch each capability, one after the other, to what it is not."""
    for name, on in migration.capabilities(place.machine).items():
        change = {"capability": name, "state": not on}
        place.give("migrate-set-capabilities", {"capabilities": [change]})


def _set_parameters(place: Place) -> None:
    """Set each parameter but `mode` to another valid value, one after the other."""
    machine = place.machine
    for option in parameter_options(read_schema(machine), settings(machine).parameters):
        if _MODE not in option.parameters:
            place.give("migrate-set-parameters", option.parameters)


def _set_mode(value: str) -> Callable[[Place], None]:
    def set_it(place: Place) -> None:
        place.give("migrate-set-parameters", {_MODE: value})

    return set_it


def _require_mode(value: str) -> Callable[[Place], None]:
    def require(place: Place) -> None:
        members = read_schema(place.machine).arguments("migrate-set-parameters")
        if not any(member.name == _MODE and value in member.values for member in members):
            raise NotApplicable(f"This QEMU has no migration mode '{value}'.")

    return require


def _mode(value: str) -> Thing:
    reason = f"the mode '{value}' is another kind of migration than the one that runs"
    return Thing(reason, _set_mode(value), prepare=_require_mode(value), refused=None, sets=True)


def _migrate(uri: str, **arguments: Any) -> Callable[[Place], None]:
    return command("migrate", {"uri": uri, **arguments})


def _save_devices(place: Place) -> None:
    """Save the devices' state alone, as Xen does."""
    path = str(place.folder / "devices")
    place.give("xen-save-devices-state", {"filename": path, "live": True})
    place.give("xen-save-devices-state", {"filename": path, "live": False})


MIGRATION_THINGS: Mapping[str, Thing] = {
    "second-migrate": Thing(
        "two tools save the same guest",
        in_turn(_migrate("exec:cat > /dev/null"), _migrate("tcp:127.0.0.1:1")),
        refused=True,
    ),
    "migrate-resume": Thing(
        "it is for post-copy", _migrate("exec:cat > /dev/null", resume=True), refused=True
    ),
    "incoming": Thing(
        "this QEMU waits for no migration",
        command("migrate-incoming", {"uri": "exec:cat /dev/null"}),
        refused=True,
    ),
    "recover": Thing(
        "it is for post-copy", command("migrate-recover", {"uri": "tcp:127.0.0.1:0"}), refused=True
    ),
    "postcopy": Thing("post-copy begins in mid-migration", command("migrate-start-postcopy"), refused=True),
    "continue": Thing(
        "a migration that waits before its switch-over is continued so",
        commands(*(("migrate-continue", {"state": state}) for state in ("pre-switchover", "device"))),
        refused=True,
    ),
    "cancel": Thing("users cancel what takes too long", command("migrate_cancel"), ends=_CANCELLED),
    "cancel-twice": Thing(
        "and try again when it does not end at once",
        commands(("migrate_cancel", {}), ("migrate_cancel", {})),
        ends=_CANCELLED,
    ),
    "stop-cancel": Thing(
        "a guest that was stopped in mid-save must stay stopped",
        commands(("stop", {}), ("migrate_cancel", {})),
        ends=_CANCELLED,
        state="paused",
    ),
    "yank": Thing(
        "yank is for sockets that hang; this save goes to a command",
        command("yank", {"instances": [{"type": "migration"}]}),
        ends=frozenset({"completed", "failed"}),
    ),
    **{f"{where}-sink": Thing(reason, nothing, sink=sink) for where, (reason, sink) in _SINKS.items()},
    **{
        f"cancel-{where}": Thing(
            f"users cancel what takes too long; {reason}",
            command("migrate_cancel"),
            ends=_CANCELLED,
            sink=sink,
        )
        for where, (reason, sink) in _SINKS.items()
    },
    "yank-socket": Thing(
        "yank is for a socket whose other end hangs, and QEMU shuts it down",
        command("yank", {"instances": [{"type": "migration"}]}),
        ends=frozenset({"failed"}),
        sink=socket_sink,
    ),
    "capability-off": Thing(
        "a user switches the capability off too early",
        command(
            "migrate-set-capabilities",
            {"capabilities": [{"capability": migration.BACKGROUND_SNAPSHOT, "state": False}]},
        ),
        refused=True,
    ),
    "capabilities": Thing("each capability of this QEMU", _set_capabilities, refused=True),
    "parameters": Thing(
        "each parameter of this QEMU, to another valid value", _set_parameters, refused=None, sets=True
    ),
    **{f"mode-{value}": _mode(value) for value in ("cpr-reboot", "cpr-transfer", "cpr-exec")},
    "save-devices": Thing("Xen's save of the devices stops the guest, and saves them again", _save_devices),
    "dirty-log": Thing(
        "Xen's switch for the dirty log",
        commands(
            ("xen-set-global-dirty-log", {"enable": True}), ("xen-set-global-dirty-log", {"enable": False})
        ),
        refused=None,
    ),
    "colo": Thing(
        "commands of COLO to a guest that has none",
        command("x-colo-lost-heartbeat"),
        refused=True,
    ),
}
