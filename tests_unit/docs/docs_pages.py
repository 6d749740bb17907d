"""Reads the documentation as text: commands, links, anchors, findings that it names, code that it quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_QUOTED = re.compile(r"From `([\w./]+)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_IN_AN_ANCHOR = re.compile(r"[^\w\- ]")


@dataclass(frozen=True)
class Command:
    """A command as a page shows it behind a prompt.

    Attributes:
        page: the page, from the top of the tree.
        text: the command without its prompt, continuation lines joined, without a comment at its end.
    """

    page: str
    text: str


def pages() -> list[Path]:
    """README, CONTRIBUTING, and all pages of docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """Return the name that tests use for a page."""
    return str(page.relative_to(ROOT))


def commands(page: Path) -> Iterator[Command]:
    """Return the commands after `$ ` in a page's blocks."""
    for _, block in _FENCE.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield Command(name(page), re.sub(r"\s+#\s.*", "", line[2:]).strip())


def inline_calls(page: Path) -> Iterator[str]:
    """Return the calls `snapproof ...` in a page's text, each in one pair of backticks."""
    prose = _FENCE.sub("", page.read_text())
    for text in re.findall(r"`([^`]+)`", prose):
        # A path such as snapproof/cli/run.py is no call.
        if re.match(r"(snapproof|ci/smoke)(\s|$)", text):
            yield " ".join(text.split())


def links(page: Path) -> Iterator[str]:
    """Targets of links in a page's text."""
    yield from _LINK.findall(_FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page, formed from its headings as GitHub and GitLab do."""
    found = set()
    for title in re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE):
        found.add(_NOT_IN_AN_ANCHOR.sub("", title.lower()).replace(" ", "-"))
    return found


def findings(page: Path) -> set[str]:
    """Findings that a page names (`F7`)."""
    return set(re.findall(r"\bF\d{1,2}\b", page.read_text()))


def quotations(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Code that a page says is from a file: the file, and the pieces between lines that are `...`."""
    for file, code in _QUOTED.findall(page.read_text()):
        yield file, re.split(r"^\.\.\.\n", code, flags=re.MULTILINE)
