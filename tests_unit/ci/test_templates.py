"""Contract: each CI template is what its system takes, and calls snapproof as it can be called."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from groovy_parser.parser import parse_groovy_content

from guest_images.cache import Cache, default_cache_folder
from guest_images.catalogue import QEMUS, suite
from guest_images.packages.loader import find_loader
from guest_images.packages.unpacked import PackageSet, find_tree, provide_tree
from guest_images.provisioning import Provisioning
from harness.status import Status
from snapproof.report.run_result import RunResult
from snapproof.runs.profiles import PROFILES
from snapproof.runs.results_folder import write_results
from tests_unit.ci.ci_templates import (
    GITHUB,
    GITLAB,
    JENKINS,
    LAVA_JOB,
    LAVA_TEST,
    TMT,
    Template,
    misplaced,
    read_yaml,
    templates,
)
from tests_unit.support.scenario_values import outcome
from tests_unit.support.shell_commands import WrongCall, our_calls, parse_call

_BIN = Path(sys.executable).parent
_SCHEMAS = {GITLAB: ("gitlab-ci", "--data-transform", "gitlab-ci"), GITHUB: ("github-workflows",)}
_SYSTEMS = tuple(templates())
# The schemas by which a LAVA server judges what is submitted to it.
_LAVA = PackageSet("lava-common", suite("debian-12"), ("lava-common",), ("lava-common", "python3-voluptuous"))
_RSYNC = PackageSet(
    "rsync",
    suite("debian-12"),
    ("rsync",),
    ("rsync", "libc6", "libacl1", "liblz4-1", "libpopt0", "libssl3", "libxxhash0", "libzstd1", "zlib1g"),
)
_LAVA_CHECK = """
import sys
from ruamel.yaml import YAML
import lava_common.schemas, lava_common.schemas.test.testdef
yaml = YAML(typ="safe", pure=True)
lava_common.schemas.validate(yaml.load(open(sys.argv[1])))
lava_common.schemas.test.testdef.validate(yaml.load(open(sys.argv[2])))
"""


@pytest.fixture(params=_SYSTEMS)
def template(request: pytest.FixtureRequest) -> Template:
    """Each template in turn."""
    return templates()[request.param]


def _run(
    *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)


# What each system says of its own


def _schema_verdict(schema: Path, file: Path) -> subprocess.CompletedProcess[str]:
    name, *options = _SCHEMAS[schema]
    return _run(_BIN / "check-jsonschema", "--builtin-schema", f"vendor.{name}", *options, file)


@pytest.mark.parametrize("path", _SCHEMAS, ids=lambda path: path.stem)
def test_json_schema(path: Path) -> None:
    """GitLab's and GitHub's published schemas accept their templates."""
    done = _schema_verdict(path, path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "right", "wrong"),
    [
        (GITLAB, "when: always", "when: sometimes"),
        (GITLAB, "      junit: results/*/junit.xml", "      junit: 3"),
        (GITHUB, "needs: snapshots", "needs: 7"),
        (GITHUB, "runs-on: ubuntu-24.04", "run-on: ubuntu-24.04"),
    ],
)
def test_json_schema_sees_errors(path: Path, right: str, wrong: str, tmp_path: Path) -> None:
    """A template with one thing wrong is refused."""
    damaged = tmp_path / path.name
    assert right in path.read_text()
    damaged.write_text(path.read_text().replace(right, wrong))
    assert _schema_verdict(path, damaged).returncode == 1


def test_jenkinsfile() -> None:
    """The Jenkinsfile is Groovy, and its sections are where a declarative pipeline has them."""
    text = JENKINS.read_text()
    parse_groovy_content(text)
    assert list(misplaced(text)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("axes {", "axis {", "'axis' stands in 'matrix'"),
        ("post {", "afterwards {", "'afterwards' stands in 'stage'"),
        ("steps {", "step {", "'step' stands in 'stage'"),
        ("    agent none\n", "", "the pipeline has only"),
    ],
)
def test_jenkinsfile_sees_errors(right: str, wrong: str, complaint: str) -> None:
    """A section with another name, in another place or missing is seen."""
    text = JENKINS.read_text()
    assert right in text
    assert any(complaint in said for said in misplaced(text.replace(right, wrong)))


def test_jenkinsfile_that_is_no_groovy() -> None:
    """The parser sees a missing brace or quote: in a short text, since it reads the template for seconds."""
    text = "pipeline {\n    axis {\n        name 'SHARD'\n        values '1', '2'\n    }\n}\n"
    parse_groovy_content(text)
    for damaged in (text.rstrip().removesuffix("}"), text.replace("name 'SHARD'", "name 'SHARD")):
        with pytest.raises(Exception, match=r"Unexpected|No terminal"):
            parse_groovy_content(damaged)


@pytest.fixture(scope="module")
def lava_schemas() -> Path:
    """The folder with LAVA's own Python package, from Debian's."""
    cache = Cache(default_cache_folder())
    tree = find_tree(_LAVA, cache) or provide_tree(_LAVA, Provisioning(cache, print))
    return tree.root / "usr/lib/python3/dist-packages"


def _lava_verdict(schemas: Path, job: Path, test: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(schemas)}
    return _run(sys.executable, "-c", _LAVA_CHECK, job, test, env=environment)


def test_lava_schema(lava_schemas: Path, tmp_path: Path) -> None:
    """LAVA's own schemas accept the job and the test definition, and refuse damaged ones."""
    done = _lava_verdict(lava_schemas, LAVA_JOB, LAVA_TEST)
    assert done.returncode == 0, done.stderr
    job, test = tmp_path / "job.yaml", tmp_path / "test.yaml"
    job.write_text(LAVA_JOB.read_text().replace("visibility: public", "visibility: sometimes"))
    assert "Invalid" in _lava_verdict(lava_schemas, job, LAVA_TEST).stderr
    test.write_text(LAVA_TEST.read_text().replace("steps:", "step:"))
    assert "Invalid" in _lava_verdict(lava_schemas, LAVA_JOB, test).stderr


# What all have in common


def test_shards_are_whole(template: Template) -> None:
    """The jobs of a template together run every test, and none twice."""
    count = len(template.shards)
    assert count > 1
    assert list(template.shards) == [f"{number}/{count}" for number in range(1, count + 1)]


def test_jenkins_unstashes_all() -> None:
    """The report has the results of each shard."""
    numbers = [shard.partition("/")[0] for shard in templates()["jenkins"].shards]
    assert re.findall(r"unstash 'results-(\d+)'", JENKINS.read_text()) == numbers


def test_settings_exist(template: Template) -> None:
    """Each template names a profile and a QEMU that there are."""
    assert template.settings["PROFILE"] in PROFILES
    assert template.settings["QEMU"] in {spec.name for spec in QEMUS}


def test_scripts_are_sound(template: Template, tmp_path: Path) -> None:
    """Each shell fragment is one, and shellcheck finds nothing in it."""
    for name, script in template.scripts.items():
        file = tmp_path / "script.sh"
        file.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        done = _run(_BIN / "shellcheck", file)
        assert done.returncode == 0, f"{name}: {done.stdout}"


def test_calls_parse(template: Template) -> None:
    """Each call of snapproof has options that there are; one runs a shard, others hand on the results."""
    calls = [call for script in template.scripts.values() for call in our_calls(script, template.values)]
    for call in calls:
        parse_call(call)
    (shard,) = [call[call.index("--shard") + 1] for call in calls if call[0] == "run"]
    assert shard == template.shards[0]
    assert any(call[0] == "report" for call in calls)


def test_wrong_calls_are_seen() -> None:
    """A renamed option, a wrong value and a command that is none are seen, wherever they stand in a line."""
    for script in (
        "true && .venv/bin/snapproof run --shards 1/3",
        'snapproof run --shard "$SHARD"  # no number',
        "sudo snapproof doctors | tee out",
        "if ci/smoke --nothing; then true; fi",
    ):
        with pytest.raises(WrongCall, match="snapproof"):
            for call in our_calls(script):
                parse_call(call)


# tmt, which can be run here


@pytest.fixture
def tmt_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tmt template in a repository of its own, and tmt with folders of its own."""
    monkeypatch.setenv("TMT_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("TMT_WORKDIR_ROOT", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    tree = tmp_path / "tree"
    shutil.copytree(TMT, tree)
    return tree


def test_tmt_lint(tmt_tree: Path) -> None:
    """The tool itself has nothing to say against plans and test, and does where an attribute is unknown."""
    done = _run(_BIN / "tmt", "lint", cwd=tmt_tree)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmt_tree / "tests.fmf").write_text(f"{(TMT / 'tests.fmf').read_text()}reslut: custom\n")
    assert _run(_BIN / "tmt", "lint", cwd=tmt_tree).returncode != 0


def _lend_rsync(folder: Path) -> None:
    """Make a program of Debian's rsync there: tmt needs it even on this machine, which may have none."""
    cache = Cache(default_cache_folder())
    root = (find_tree(_RSYNC, cache) or provide_tree(_RSYNC, Provisioning(cache, print))).root
    program = folder / "rsync"
    command = shlex.join(find_loader(root).command(root, "usr/bin/rsync"))
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)


def _stand_in(folder: Path, place: Path) -> None:
    """Make a `snapproof` in `place` whose `run` boots no guest, but leaves the results of an earlier run."""
    earlier = folder / "earlier"
    earlier.mkdir()
    found = [outcome("t.good", Status.PASS), outcome("t.bad", Status.FAIL), outcome("t.off", Status.SKIP)]
    write_results(earlier, RunResult(found, "2026-01-02T03:04:05+00:00", 9.0, ["snapproof", "run"], {}))
    place.mkdir(parents=True)
    program = place / "snapproof"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = run ] || exec {_BIN / "snapproof"} "$@"\n'
        f'for last; do :; done\necho "$@"\ncp -r {earlier} "$last"\nexit 1\n'
    )
    program.chmod(0o755)


@pytest.mark.timeout(600)
def test_tmt_run(tmt_tree: Path, tmp_path: Path) -> None:
    """A plan runs on this machine, and tmt takes over what results.yaml says of each of our tests."""
    place = tmp_path / "bin"
    _stand_in(tmp_path, place)
    _lend_rsync(place)
    # Neither the test nor tmt's own helpers get this process's environment.
    tmt = f"import os; os.defpath = {f'{place}:{os.defpath}'!r}; import tmt.__main__; tmt.__main__.run_cli()"
    steps = ["discover", "provision", "--how", "local", "execute", "report", "plan", "--name", "shard-2"]
    path = f"PATH={place}:{os.environ['PATH']}"
    run: list[str | Path] = ["--feeling-safe", "run", "--id", tmp_path / "runs/one", "--environment", path]
    done = _run(sys.executable, "-c", tmt, *run, *steps, cwd=tmt_tree)
    assert done.returncode == 1, done.stdout + done.stderr
    results = read_yaml(tmp_path / "runs/one/plans/shard-2/execute/results.yaml")
    assert {result["name"]: result["result"] for result in results} == {
        "/tests/t.good": "pass",
        "/tests/t.bad": "fail",
        "/tests/t.off": "skip",
    }
    (log,) = (tmp_path / "runs/one").rglob("output.txt")
    assert "--profile premerge --qemu debian-13 --shard 2/3" in log.read_text()


def test_lava_steps(tmp_path: Path) -> None:
    """The steps of the LAVA test run the shard of the machine's role, and make each result a test case."""
    _stand_in(tmp_path, tmp_path / ".venv/bin")
    for name, text in (("lava-role", "echo shard-2"), ("lava-test-case", 'echo "$*" >>cases')):
        program = tmp_path / ".venv/bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    install, *steps = read_yaml(LAVA_TEST)["run"]["steps"]
    assert "venv" in install
    settings = {**read_yaml(LAVA_TEST)["params"], "PATH": f"{tmp_path / '.venv/bin'}:{os.environ['PATH']}"}
    # LAVA runs the steps as one script.
    script = "\n".join(step for step in steps if "pip install" not in step)
    done = _run("sh", "-c", script, cwd=tmp_path, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr
    assert "--profile premerge --qemu debian-13 --shard 2/3" in done.stdout
    cases = (tmp_path / "cases").read_text().splitlines()
    assert {"t.good --result pass", "t.bad --result fail", "t.off --result skip"} <= set(cases)
