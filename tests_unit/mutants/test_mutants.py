"""Contract: a mutant that no test notices survives, and one that a test notices is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests_unit.mutants.operators import Mutant, mutants_of
from tests_unit.mutants.report import Result, equivalents, interval, read_results, stanza, table

_ROOT = Path(__file__).parents[2]
_EQUIVALENT = Path(__file__).parent / "equivalent.toml"
_MODULE = '''"""Planted."""

LIMIT = 10


def too_many(count: int) -> bool:
    """Say whether these are more than allowed."""
    return count > LIMIT
'''
_TESTS = {
    "weak": "assert too_many(1000)\n    assert not too_many(1)",
    "good": "assert too_many(11)\n    assert not too_many(10)",
}


def _one(operator: str, after: str, source: str = _MODULE) -> Mutant:
    return next(
        one for one in mutants_of("planted.py", source) if one.operator == operator and after in one.after
    )


def _tried(tree: Path, requests: list[dict[str, object]]) -> list[dict[str, object]]:
    (tree / "scratch").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests_unit.mutants.trial", "scratch"],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": f"{tree}:{_ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        input="".join(json.dumps(request) + "\n" for request in requests),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_tests_may_give_their_process_any_name(tmp_path: Path) -> None:
    """The process that watches them reads /proc/PID/stat, where the name is."""
    (tmp_path / "planted.py").write_text(_MODULE)
    (tmp_path / "test_odd.py").write_text(
        "from pathlib import Path\nimport planted\n\n\ndef test_it() -> None:\n"
        '    Path("/proc/self/comm").write_bytes(b"odd) \\xff")\n'
    )
    tests = {"test_odd.py": {"test_odd.py::test_it": 0.01}}
    (answer,) = _tried(tmp_path, [{"path": "planted.py", "source": _MODULE, "tests": tests}])
    assert answer["outcome"] == "survived"


def test_weak_test_lets_a_mutant_survive_and_a_good_one_kills_it(tmp_path: Path) -> None:
    """The boundary is mutated: 1000 and 1 tell nothing about it, 11 and 10 do. The tree is left as it was."""
    (tmp_path / "planted.py").write_text(_MODULE)
    for name, body in _TESTS.items():
        (tmp_path / f"test_{name}.py").write_text(
            f"from planted import too_many\n\n\ndef test_it() -> None:\n    {body}\n"
        )
    mutated = _one("compare", ">=").applied(_MODULE)

    def request(source: str, test: str) -> dict[str, object]:
        name = f"test_{test}.py"
        return {"path": "planted.py", "source": source, "tests": {name: {f"{name}::test_it": 0.01}}}

    answers = _tried(
        tmp_path,
        [request(_MODULE, "good"), request(mutated, "weak"), request(mutated, "good")],
    )
    assert [one["outcome"] for one in answers] == ["survived", "survived", "killed"]
    assert answers[2]["test"] == "test_good.py::test_it"
    assert (tmp_path / "planted.py").read_text() == _MODULE


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"(a <= b)", "(a >= b)"}),
        ("x = 5", {"(6)", "(4)"}),
        ("f(strict=True)", {"pass", "False", "(f())"}),
        ("x = a and b", {"(a or b)"}),
        ("x = data[1:n]", {"(2)", "(0)", "(data[:n])", "(data[1:])"}),
        ("raise ValueError", {"pass"}),
        ("def f():\n    return g()", {"return None"}),
        ("for x in y:\n    break", {"continue"}),
        ("if a:\n    x = 'text'", {"(not (a))"}),
        ("a.b += 1", {"a.b -= 1", "pass", "(2)", "(0)"}),
        # Nothing of these is changed.
        ("os.kill(pid, 9)", {"pass"}),
        ("x: Literal[1]", set()),
        ("@cached(size=3)\ndef f(): ...", set()),
        ("x = f'{a + 1}'", set()),
    ],
)
def test_operators(source: str, expected: set[str]) -> None:
    """Each kind of code has its changes, and what could harm the machine or nobody is left alone."""
    assert {one.after for one in mutants_of("a.py", source)} == expected


def test_mutant_has_one_address_and_changes_one_place() -> None:
    """Addresses are unique, and the change is made where the text is, beside wider characters too."""
    source = "x = ('ä', 1 + 2, 1 + 2)"
    mutants = mutants_of("a.py", source)
    assert len({one.address for one in mutants}) == len(mutants)
    assert "x = ('ä', 1 + 2, (1 - 2))" in {one.applied(source) for one in mutants}


def test_listed_mutant_is_found_when_lines_move_and_an_error_when_its_code_changes(tmp_path: Path) -> None:
    """An entry of equivalent.toml holds for the text that it names, and needs a reason."""
    listed = tmp_path / "equivalent.toml"
    entry = stanza(_one("compare", ">="))
    listed.write_text(entry.replace('reason = ""', 'reason = "because"'))
    moved = mutants_of("planted.py", "\n\n" + _MODULE)
    assert len(equivalents(listed, moved)) == 1
    changed = mutants_of("planted.py", _MODULE.replace("count >", "2 * count >"))
    with pytest.raises(ValueError, match="its code has changed"):
        equivalents(listed, changed)
    listed.write_text(entry)
    with pytest.raises(ValueError, match="has no reason"):
        equivalents(listed, moved)


def test_entry_of_a_line_is_of_its_numbers_but_for_nought(tmp_path: Path) -> None:
    """Another size of a step is as good, but no step at all is not."""
    listed = tmp_path / "equivalent.toml"
    listed.write_text(
        '[[equivalent]]\nfile = "planted.py"\nfunction = ""\ntext = "STEP = 1 << 4"\nreason = "a step"\n'
    )
    found = equivalents(listed, mutants_of("planted.py", "STEP = 1 << 4"))
    assert len(found) == 3
    assert {address.split(":")[3] for address in found} == {"constant"}


def test_every_listed_mutant_is_one_of_the_code_as_it_is() -> None:
    """After a change of such a line its reason has to be looked at again."""
    files = {entry["file"] for entry in tomllib.loads(_EQUIVALENT.read_text())["equivalent"]}
    mutants = [one for file in files for one in mutants_of(file, (_ROOT / file).read_text())]
    assert equivalents(_EQUIVALENT, mutants)


def test_broken_off_run_goes_on(tmp_path: Path) -> None:
    """Results that were kept are read back, without the line that was being written."""
    kept = tmp_path / "results.jsonl"
    line = json.dumps(Result("key", "a.py:1:0:not:0", "killed", "test", 1.0).__dict__)
    kept.write_text(f"{line}\n{line[:20]}")
    assert list(read_results(kept)) == ["key"]


def test_score_counts_what_was_noticed_of_all_that_are_not_equivalent() -> None:
    """Timed-out mutants count as noticed; those that no test runs count against the score."""
    outcomes = ["killed"] * 6 + ["timed-out"] * 2 + ["survived", "no-test", "equivalent"]
    row = table({"all": [Result("", "", outcome, "", 0.0) for outcome in outcomes]}).splitlines()[-1]
    assert row.split()[:8] == ["all", "11", "6", "2", "1", "1", "1", "80.0%"]
    low, high = interval(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
