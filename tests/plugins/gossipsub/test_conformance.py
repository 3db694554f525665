"""GossipSub is a broadcast like any other: the role's suite, pure in every file, the same everywhere."""

from __future__ import annotations

from pathlib import Path

import grove_gossipsub
import pytest

from grove_core.testing import part
from grove_core.testing.conformance import BroadcastConformance
from grove_core.testing.purity import assert_pure

FILES = sorted(Path(grove_gossipsub.__file__).parent.glob("*.py"))


class TestConformance(BroadcastConformance):
    part = part("gossipsub")


class TestConformanceWithScores(BroadcastConformance):
    """Every peer is honest, so scores must change nothing that is promised."""

    part = part("gossipsub", score="hardening")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_pure(path: Path) -> None:
    assert_pure(path)
