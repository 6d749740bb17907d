"""Fills the templates of report.html: escapes everything, and forbids the page to fetch anything."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources

import jinja2
from markupsafe import Markup


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("snapproof.report.html", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return (resources.files("snapproof.report.html") / "templates" / name).read_text(encoding="utf-8")


def rendered(template: str, **values: object) -> str:
    """Return the document that a template makes of these values.

    The page's one script is allowed by its digest (CSP level 2, `script-src`), so no other script runs.
    """
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        _environment()
        .get_template(template)
        .render(style=Markup(_asset("report.css")), script=Markup(script), script_digest=digest, **values)
    )
