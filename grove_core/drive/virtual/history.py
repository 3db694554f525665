"""A history as bytes that do not depend on addresses or hash seeds, for a world's digest."""

from __future__ import annotations

from typing import Any

import msgspec

from grove_core.drive.virtual.context import VirtualContext
from grove_core.drive.virtual.node import VirtualNode


def line(now: float, act: Any, ctx: Any, a: Any, b: Any) -> bytes:
    """One event as bytes that do not depend on addresses or hash seeds."""
    return f"{now!r} {act.__name__} {_name(ctx)} {_name(a)} {_name(b)}\n".encode()


def _name(thing: Any) -> str:
    if isinstance(thing, msgspec.Struct):
        return (
            repr(msgspec.msgpack.encode(thing)) if type(thing).__struct_fields__ else type(thing).__name__
        )
    if isinstance(thing, VirtualContext | VirtualNode | str | bytes | int | float) or thing is None:
        return repr(thing)
    if isinstance(thing, tuple):
        return "(" + ",".join(_name(item) for item in thing) + ")"
    return type(thing).__name__
