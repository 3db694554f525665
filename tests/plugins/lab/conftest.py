"""The worlds of the lab's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from grove_lab.scenario import Scenario, parse

from tests.core.installing import Shelf

VILLAGE = """
nodes = 30
duration = 20
[join]
spacing = 0.2
settle = 30
[workloads.talk]
rate = 1
[measure]
deadline = 5
joined = 1
"""


def village(text: str = "", *sets: str) -> Scenario:
    """Thirty homes that talk for twenty seconds; text: further tables; sets: key=value."""
    return parse(VILLAGE + text, sets, name="village")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(tmp_path / "shelf", monkeypatch)
