"""What the last runs of the interop tests gave, line by way, in `.results.json` beside this file.

A run replaces the cells it ran and keeps the others, so that `pytest -k ping` does not empty the table.
The file is not committed; `table.py` makes docs/interop.md from it, which is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

FILE = Path(__file__).parent / ".results.json"


class Cell(msgspec.Struct, frozen=True):
    """outcome: "passed", "failed" or "skipped". note: why, in a line, if it did not pass."""

    outcome: str
    note: str = ""


class Results(msgspec.Struct):
    """cells: line name → way → cell. versions: js package → version."""

    versions: dict[str, str] = {}
    cells: dict[str, dict[str, Cell]] = {}


_fresh = Results()


def versions(found: dict[str, str]) -> None:
    """Note which versions were met."""
    _fresh.versions.update(found)


def cell(line: str, way: str, report: pytest.TestReport) -> None:
    """Note one outcome; of several tests of one cell the worst stands."""
    note = ""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        note = report.longrepr[2].removeprefix("Skipped: ")
    elif report.failed:
        note = _last_line(report.longrepr)
    row = _fresh.cells.setdefault(line, {})
    if row.get(way, Cell("passed")).outcome == "passed":
        row[way] = Cell(report.outcome, note[:200])


def read() -> Results:
    """What is on file; empty if there is none."""
    try:
        return msgspec.json.decode(FILE.read_bytes(), type=Results)
    except FileNotFoundError:
        return Results()


def write() -> None:
    """Merge this run into the file."""
    if not _fresh.cells:
        return
    kept = read()
    kept.versions.update(_fresh.versions)
    for line, row in _fresh.cells.items():
        kept.cells.setdefault(line, {}).update(row)
    FILE.write_text(json.dumps(msgspec.to_builtins(kept), indent=1, sort_keys=True) + "\n")


def _last_line(longrepr: Any) -> str:
    crash = getattr(longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(longrepr)
    return str(text.strip().splitlines()[0]) if text.strip() else ""
