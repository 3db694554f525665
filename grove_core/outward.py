"""What the house looks like from outside: events as plain data, peer ids as text.

The local door and `grove up --json` tell events in these words, so a program sees one form whether
it reads frames or lines. Any plugin's event has it without being asked: the name of its type in
snake case, then its fields, a `PeerId` in its text form and a message `id` in hex.
"""

from __future__ import annotations

import base64
import re
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec

from grove_core.identity import peer_text
from grove_core.machine import Event, PeerId


def plain(event: Event) -> dict[str, Any]:
    """An event as a map: `{"event": "delivered", "topic": …, "author": "12D3KooW…", "data": b"…"}`."""
    told: dict[str, Any] = {"event": name_of(type(event))}
    for field, kind in _fields(type(event)):
        value = getattr(event, field)
        if kind == "peer":
            value = peer_text(value)
        elif kind == "peers":
            value = [peer_text(peer) for peer in value]
        elif kind == "id":
            value = value.hex()
        told[field] = value
    return told


@cache
def name_of(kind: type[Event]) -> str:
    """The outward name of a type of event: NeighborUp is "neighbor_up"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def json_line(told: dict[str, Any]) -> str:
    """A map as one line of JSON. Bytes that are UTF-8 become text; others go to `<key>_base64`."""
    printable: dict[str, Any] = {}
    for key, value in told.items():
        if isinstance(value, bytes):
            try:
                printable[key] = value.decode()
            except UnicodeDecodeError:
                printable[key + "_base64"] = base64.b64encode(value).decode()
        else:
            printable[key] = value
    return msgspec.json.encode(printable).decode()


def printable(text: str | bytes) -> str:
    """What a stranger said, safe to print: one line, and no control sequence reaches the terminal.

    What is not printable, and what is not UTF-8, is shown as a backslash escape.
    """
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def short(peer: str) -> str:
    """A peer id in text, cut for the eye as `identity.short` cuts it: `12D3…h7Qz`."""
    return f"{peer[:4]}…{peer[-4:]}"


@cache
def _fields(kind: type[Event]) -> tuple[tuple[str, str], ...]:
    hints = get_type_hints(kind)
    return tuple((field, _how(field, hints[field])) for field in kind.__struct_fields__)


def _how(field: str, hint: Any) -> str:
    if hint is PeerId:
        return "peer"
    if PeerId in get_args(hint):
        return "peers"
    return "id" if field == "id" and hint is bytes else "as it is"
