"""The pytest plugin that ships with Grove: markers and fixtures for plugin authors.

Fixtures: `village` makes a `Village`; `recorder` makes a `Recorder` for test peer 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from grove_core.testing import Recorder, Village


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "claim(id): the promise this test holds up")


@pytest.fixture
def village() -> Callable[..., Village]:
    """`village(parts, nodes, seed=…, …)`: a simulated world, see `grove_core.testing.Village`."""
    from grove_core.testing import Village

    def make(parts: Any, nodes: int, **options: Any) -> Village:
        return Village(parts, nodes, **options)

    return make


@pytest.fixture
def recorder() -> Recorder:
    """A recorder whose node is `peer(0)`."""
    from grove_core.testing import Recorder, peer

    return Recorder(peer(0))
