"""Fixtures of the core tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.installing import Shelf


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Distributions installed for one test."""
    return Shelf(tmp_path / "site", monkeypatch)
