"""Grove's kernel: the contract, the registry, the configuration and the two drivers.

It knows no protocol by name and imports no plugin. `grove_core.Node` is a real node; it is loaded
when it is first asked for, so that importing the kernel stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grove_core.drive.live import Node

__all__ = ["Node"]


def __getattr__(name: str) -> Any:
    if name == "Node":
        from grove_core.drive.live import Node

        return Node
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
