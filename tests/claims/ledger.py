"""A pytest plugin that keeps, of each test with a claim, how it ended and what it told.

    python -m tests.claims.ledger FILE INTO      run one test file, the claims in it only

INTO is JSON, written anew after each test: {test id: {claims, outcome, measured, setup, curves,
seconds, why}}. A test that was only set up so far is not in it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Ledger:
    def __init__(self, into: Path) -> None:
        self.into = into
        self.claims: dict[str, tuple[str, ...]] = {}
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = []
        for item in items:
            names = tuple(mark.args[0] for mark in item.iter_markers("claim"))
            if names:
                self.claims[item.nodeid] = names
                kept.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.claims])
        items[:] = kept
        self._write()
        print(f"{len(items)} tests", flush=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self.tests.setdefault(
            report.nodeid, {"claims": self.claims[report.nodeid], "outcome": "passed", "seconds": 0.0}
        )
        test["seconds"] = round(test["seconds"] + report.duration, 1)
        if report.outcome != "passed":
            test["outcome"] = report.outcome
            test["why"] = _last_line(report)
        if report.when == "call":
            told = report.user_properties
            test["measured"] = [str(value) for key, value in told if key == "measured"]
            test["setup"] = next((str(value) for key, value in told if key == "setup"), "")
            test["curves"] = [value for key, value in told if key == "curve"]
        if report.when == "teardown":
            self._write()
            print(f"{test['outcome']} {report.nodeid.split('::', 1)[-1]}", flush=True)

    def _write(self) -> None:
        self.into.write_text(json.dumps(self.tests))


def _last_line(report: pytest.TestReport) -> str:
    """Why a test failed or was skipped, in one line."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    said: str = crash.message if crash is not None else str(report.longrepr)
    return said.strip().splitlines()[0][:200] if said.strip() else ""


def main() -> int:
    file, into = sys.argv[1:3]
    os.environ["GROVE_FULL"] = "1"
    os.environ.setdefault("GROVE_KEEP", str(ROOT / ".claims"))  # see tests/sim/kept.py
    os.chdir(ROOT)
    return int(pytest.main(["-q", "-p", "no:cacheprovider", file], plugins=[Ledger(Path(into))]))


if __name__ == "__main__":
    sys.exit(main())
