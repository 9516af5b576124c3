"""report.json and report.html of a build."""

import json
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgeprune.report.figures import comparison, conditions, stage


def write_report(folder: Path, report: dict[str, Any]) -> Path:
    """Write both, whole or not at all; returns the page's path."""
    _replace(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    page = folder / "report.html"
    _replace(page, render(report))
    return page


def render(report: dict[str, Any]) -> str:
    """The page: one file that needs no network."""
    environment = Environment(
        loader=PackageLoader("edgeprune", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cut = stage(report, "cut")
    return environment.get_template("report.html").render(
        report=report,
        rows=comparison(report),
        conditions=conditions(report),
        layers=list(zip(cut.get("heads", []), cut.get("channels", []), strict=True)),
        checks={
            name: stage(report, name)["checks"]
            for name in ("prune", "sparsify", "recover")
            if "checks" in stage(report, name)
        },
        pools=stage(report, "prune").get("pools", []),
        passes=stage(report, "rewrite").get("passes", []),
    )


def _replace(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
