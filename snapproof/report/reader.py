"""Reads a results.json of any origin, in bounded memory, and checks it; an error is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import UsageError
from harness.status import Status
from snapproof.report.run_result import RESULTS_FILE, SCHEMA_VERSION, RunResult
from tests_functional.lib.result_files import STACK_FILE

# A nightly run of four QEMUs has 6 MiB.
_MOST_BYTES = 128 << 20
_MOST_DEPTH = 50
_MOST_NUMBER, _MOST_COUNT = 1e300, 10**9
# Thirty years.
_MOST_SECONDS, _LAST_YEAR = 1e9, 9900
_STATUSES = {status.value for status in Status}
_CODES = range(5)


class RunUnfinished(UsageError):
    """The run of a results folder was ended before it had results."""


class _WrongShapeError(Exception):
    """A part of the document is wrong; the text says which, and what is wrong there."""


def load_results(folder: Path) -> RunResult:
    """Read the results in a folder.

    Args:
        folder: the results folder of a run, or of a merge.

    Raises:
        RunUnfinished: the run was ended before it had results.
        UsageError: the folder has no results.json, or one that is not of this version or is wrong.
    """
    path = folder / RESULTS_FILE
    try:
        # Reading a pipe that nobody writes to would never end.
        if path.is_fifo():
            raise UsageError(f"'{path}' is a pipe; name the results folder of a run.")
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise _missing(folder) from None
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}.") from error
    if len(content) > _MOST_BYTES:
        raise UsageError(
            f"'{path}' is larger than {_MOST_BYTES >> 20} MiB, so it cannot be the results of a run."
        )
    try:
        data = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UsageError(f"'{path}' is not JSON; it may have been cut short.") from None
    return _checked(data, path)


def _missing(folder: Path) -> UsageError:
    if not folder.is_dir():
        return UsageError(f"There is no results folder '{folder}'.")
    if any((folder / name).exists() for name in ("tests", STACK_FILE)):
        return RunUnfinished(
            f"'{folder}' holds no {RESULTS_FILE}: its run was ended before it had written its results."
        )
    return UsageError(f"'{folder}' holds no {RESULTS_FILE}; name the results folder of a run.")


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _checked(data: Any, path: Path) -> RunResult:
    version = data.get("schema") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        said = f"says schema {version!r:.40}" if version is not None else "does not say which schema it has"
        raise UsageError(f"'{path}' {said}; this snapproof reads results of schema {SCHEMA_VERSION}.")
    try:
        _check_result(data)
        _check_depth(data)
    except _WrongShapeError as error:
        raise UsageError(f"'{path}' is not the results of a run: {error}.") from None
    result = RunResult.from_json(data)
    status = result.status.value if result.status else "NONE"
    if (data["status"], data["exit_code"], data["counts"]) != (status, result.exit_code, result.counts()):
        raise UsageError(f"'{path}' contradicts itself: its summary is not that of its tests.")
    return result


def _check_result(data: Mapping[str, Any]) -> None:
    _fields("it", data, {
        "status": _one_of(_STATUSES | {"NONE"}),
        "exit_code": _one_of(_CODES),
        "counts": _counts,
        "started": _time,
        "seconds": _seconds,
        "command": _list_of(_text),
        "environment": _object,
        "tests": _list_of(_object),
    })  # fmt: skip
    if "totals" in data:
        _fields("it", data, {"totals": _totals})
    if "selection" in data:
        _fields("it", data, {"selection": _object})
        _fields("'selection'", data["selection"], {
            "profile": _text, "filter": _text, "repeat": _positive, "shard": _shard,
        })  # fmt: skip
        for name, kind in {"work": _text, "filters": _list_of(_text)}.items():
            if name in data["selection"]:
                _fields("'selection'", data["selection"], {name: kind})
    names: set[str] = set()
    for number, test in enumerate(data["tests"]):
        _check_test(f"test {number}", test)
        if test["name"] in names:
            raise _WrongShapeError(f"the test '{test['name']}' is in it twice")
        names.add(test["name"])


def _check_depth(data: Any) -> None:
    """Refuse a document that is nested so deep that a reader may run out of stack."""
    level = [data]
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise _WrongShapeError(f"it is nested more than {_MOST_DEPTH} deep")


def _check_test(where: str, test: Mapping[str, Any]) -> None:
    _fields(where, test, {
        "name": _name,
        "status": _one_of(_STATUSES),
        "sentence": _text,
        "seconds": _seconds,
        "checks": _list_of(_object),
        "figures": _figures,
        "environment": _object,
        "folder": _folder,
    })  # fmt: skip
    for check in test["checks"]:
        _fields(f"a check of {where}", check, {
            "name": _name, "status": _one_of(_STATUSES), "explanation": _text,
        })  # fmt: skip
        for name, kind in _OF_A_CHECK.items():
            if name in check:
                _fields(f"a check of {where}", check, {name: kind})
        for violation in check.get("violations", ()):
            _fields(f"a violation of {where}", violation, {"sentence": _text})


def _fields(where: str, data: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], bool]]) -> None:
    for name, fits in kinds.items():
        if name not in data:
            raise _WrongShapeError(f"{where} has no '{name}'")
        if not fits(data[name]):
            raise _WrongShapeError(f"{where} has a '{name}' that it cannot have")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _number(value: Any) -> bool:
    # JSON has no infinity, but Python reads 1e999 as one, and a long row of digits as a huge int.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_NUMBER


def _seconds(value: Any) -> bool:
    return _number(value) and 0 <= value <= _MOST_SECONDS


def _positive(value: Any) -> bool:
    return _whole(value) and 1 <= value <= _MOST_COUNT


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _time(value: Any) -> bool:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return time is not None and time.tzinfo is not None and 1970 <= time.year <= _LAST_YEAR
    except ValueError:
        return False


def _one_of(choices: Iterable[str | int]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str | int) and not isinstance(value, bool) and value in choices


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= _STATUSES and all(map(_positive, value.values()))


def _totals(value: Any) -> bool:
    # A schema takes 1.0 for an integer.
    return isinstance(value, dict) and all(
        _number(total) and total >= 0 and total == int(total) for total in value.values()
    )


def _figures(value: Any) -> bool:
    return isinstance(value, dict) and all(_text(figure) or _number(figure) for figure in value.values())


def _shard(value: Any) -> bool:
    if value is None:
        return True
    return _list_of(_positive)(value) and len(value) == 2 and value[0] <= value[1]


def _folder(value: Any) -> bool:
    """Tell whether a test's folder is a path inside the results folder."""
    if not isinstance(value, str):
        return False
    if value == "":
        return True
    parts = PurePosixPath(value).parts
    return "\0" not in value and not value.startswith("/") and parts != () and ".." not in parts


_OF_A_CHECK: dict[str, Callable[[Any], bool]] = {
    "reason": _text,
    "total": _whole,
    "facts": _object,
    "ranges": _list_of(_object),
    "violations": _list_of(_object),
    "known_issue": _text,
}
