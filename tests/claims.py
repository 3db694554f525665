"""`make claims`: run every test that holds up a claim, at full size, and write docs/claims.md.

A test names its claim with ``@pytest.mark.claim("area.name")`` and may tell a figure with pytest's
``record_property("measured", "…")``. GROVE_FULL=1 asks the experiments for their full size. Red
claims stay in the table, and so do known gaps.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "claims.md"

HEAD = """# What Grove promises, and whether it holds

Written by `make claims`; do not edit. Each line is a promise from `tests/claims.toml`, the tests that
hold it up, and what they found at full size. `gap`: told, and not there yet.

"""


COLUMNS = """| claim | promise | source | tests | measured | holds |
|---|---|---|--:|---|---|
"""


class Ledger:
    """A pytest plugin that keeps outcomes and figures per claim."""

    def __init__(self) -> None:
        self.claims_of: dict[str, tuple[str, ...]] = {}
        self.outcomes: dict[str, list[str]] = {}
        self.figures: dict[str, list[str]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = []
        for item in items:
            names = tuple(mark.args[0] for mark in item.iter_markers("claim"))
            if names:
                self.claims_of[item.nodeid] = names
                kept.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.claims_of])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        for name in self.claims_of.get(report.nodeid, ()):
            self.outcomes.setdefault(name, []).append(report.outcome)
            figures = [str(value) for key, value in report.user_properties if key == "measured"]
            self.figures.setdefault(name, []).extend(figures)


def page(claims: dict[str, dict[str, dict[str, str]]], ledger: Ledger) -> str:
    """The page as Markdown: one table per area."""
    parts = [HEAD]
    for area, entries in claims.items():
        parts.append(f"## {area}\n\n{COLUMNS}")
        for name, claim in entries.items():
            outcomes = ledger.outcomes.get(f"{area}.{name}", [])
            figures = "; ".join(dict.fromkeys(ledger.figures.get(f"{area}.{name}", [])))
            cells = (
                name,
                claim["sentence"],
                claim["source"],
                str(len(outcomes)),
                figures,
                verdict(claim, outcomes),
            )
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def verdict(claim: dict[str, str], outcomes: list[str]) -> str:
    """yes, **no**, skipped, or the gap in words."""
    if "failed" in outcomes:
        return "**no**" + (f": {claim['gap']}" if "gap" in claim else "")
    if "gap" in claim:
        return f"gap: {claim['gap']}"
    if "passed" in outcomes:
        return "yes"
    return "skipped here" if outcomes else "**no test ran**"


def main() -> int:
    os.environ["GROVE_FULL"] = "1"
    claims = tomllib.loads((ROOT / "tests" / "claims.toml").read_text())
    ledger = Ledger()
    code = pytest.main(["-q", str(ROOT / "tests"), *sys.argv[1:]], plugins=[ledger])
    PAGE.write_text(page(claims, ledger))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
