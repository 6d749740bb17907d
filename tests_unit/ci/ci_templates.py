"""Reads the CI templates as far as tests of them need: shell fragments, shards, a Jenkinsfile's sections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

TEMPLATES = Path(__file__).parents[2] / "ci" / "templates"
GITLAB = TEMPLATES / "gitlab-ci.yml"
GITHUB = TEMPLATES / "github-actions.yml"
JENKINS = TEMPLATES / "Jenkinsfile"
TMT = TEMPLATES / "tmt"
LAVA_JOB = TEMPLATES / "lava" / "job.yaml"
LAVA_TEST = TEMPLATES / "lava" / "snapproof.yaml"

VALUES: Mapping[str, str] = {
    "SHARD": "1",
    "CI_NODE_INDEX": "1",
    "shard": "1",
    "SHARDS": "3",
    "MIRROR": "https://mirror.example/debian",
}
"""What the CI system puts into variables of a template that does not set them itself."""


@dataclass(frozen=True)
class Template:
    """One system's template.

    Attributes:
        scripts: its shell text, by what it is.
        settings: variables that it sets for the user to change: PROFILE and QEMU.
        shards: what `--shard` is in each of its jobs.
    """

    scripts: Mapping[str, str]
    settings: Mapping[str, str]
    shards: Sequence[str]

    @property
    def values(self) -> dict[str, str]:
        """All variables in its scripts, for the first shard."""
        whole = {"SHARD": self.shards[0]} if "$SHARD/" not in "".join(self.scripts.values()) else {}
        return {**VALUES, **self.settings, **whole}


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, of plain lists and dicts."""
    return YAML(typ="safe", pure=True).load(path)


def templates() -> dict[str, Template]:
    """All templates, by the name of the system."""
    return {
        "gitlab": _gitlab(),
        "github": _github(),
        "jenkins": _jenkins(),
        "tmt": _tmt(),
        "lava": _lava(),
    }


def _gitlab() -> Template:
    content = read_yaml(GITLAB)
    jobs = {name: job for name, job in content.items() if isinstance(job, dict) and "script" in job}
    scripts = {name: "\n".join(job["script"]) for name, job in jobs.items()}
    scripts["before_script"] = "\n".join(content["default"]["before_script"])
    (matrix,) = jobs["snapshots"]["parallel"]["matrix"]
    return Template(scripts, content["variables"], matrix["SHARD"])


def _github() -> Template:
    content = read_yaml(GITHUB)
    scripts = {
        f"{name} {number}": step["run"]
        for name, job in content["jobs"].items()
        for number, step in enumerate(job["steps"])
        if "run" in step
    }
    numbers = content["jobs"]["snapshots"]["strategy"]["matrix"]["shard"]
    # The step's SHARD is `matrix.shard` of `strategy.job-total`, which is the number of jobs.
    return Template(scripts, content["env"], [f"{number}/{len(numbers)}" for number in numbers])


def _jenkins() -> Template:
    text = JENKINS.read_text()
    scripts = {f"sh {number}": script for number, script in enumerate(re.findall(r"\bsh '(.*)'", text))}
    settings = dict(re.findall(r"string\(name: '(\w+)', defaultValue: '(.*?)'", text))
    values = re.search(r"name 'SHARD'\s+values (.*)", text)
    count = re.search(r"\$SHARD/(\d+)", text)
    assert values and count
    return Template(
        scripts, settings, [f"{number}/{count[1]}" for number in re.findall(r"'(\d+)'", values[1])]
    )


def _tmt() -> Template:
    plans = read_yaml(TMT / "plans.fmf")
    scripts = {"run.sh": (TMT / "run.sh").read_text(), "prepare": "\n".join(plans["prepare"]["script"])}
    shards = [plan["environment+"]["SHARD"] for name, plan in plans.items() if name.startswith("/")]
    return Template(scripts, plans["environment"], shards)


def _lava() -> Template:
    steps = "\n".join(read_yaml(LAVA_TEST)["run"]["steps"])
    job = read_yaml(LAVA_JOB)
    (test,) = [action["test"] for action in job["actions"] if "test" in action]
    settings = test["definitions"][0]["parameters"]
    roles = job["protocols"]["lava-multinode"]["roles"]
    shards = [f"{role.removeprefix('shard-')}/{settings['SHARDS']}" for role in roles]
    return Template({"steps": steps}, {**read_yaml(LAVA_TEST)["params"], **settings}, shards)


# Which sections may stand in which, from "Pipeline Syntax" of the Jenkins handbook (November 2026).
_SECTIONS = {
    "pipeline": "agent environment options parameters post stages tools triggers libraries",
    "stages": "stage",
    "stage": "agent environment input matrix options parallel post stages steps tools when",
    "matrix": "agent axes environment excludes input options post stages tools when",
    "axes": "axis",
    "axis": "name values",
    "post": "always changed fixed regression aborted failure success unstable unsuccessful cleanup",
}
_WORKS = ("steps", "stages", "parallel", "matrix")


def misplaced(jenkinsfile: str) -> Iterator[str]:
    """Return what is wrong with the sections of a declarative pipeline whose Groovy is right.

    Args:
        jenkinsfile: with one word and no other statement before each `{`.
    """
    text = re.sub(r"//.*", "", jenkinsfile)
    open_blocks: list[tuple[str, list[str]]] = [("", [])]
    for token in re.finditer(r"(?m)^\s*(\w+)(?:\(.*?\))?(.*?)$|\}", text):
        word, rest = token[1], (token[2] or "").rstrip()
        if word is None:
            name, inside = open_blocks.pop()
            if name == "stage" and sum(part in _WORKS for part in inside) != 1:
                yield f"a stage has {inside}, and needs one of {_WORKS}"
            if name == "pipeline" and not {"agent", "stages"} <= set(inside):
                yield f"the pipeline has only {inside}"
            continue
        parent, siblings = open_blocks[-1]
        siblings.append(word)
        if parent in _SECTIONS and word not in _SECTIONS[parent].split():
            yield f"'{word}' stands in '{parent}'"
        if rest.endswith("{"):
            open_blocks.append((word, []))
