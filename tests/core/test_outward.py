"""Events as the outside sees them: plain data, ids as text, nothing that could harm a terminal."""

from __future__ import annotations

import json

import pytest

from grove_core.events import Connected, Delivered, NeighborUp, PeerFound
from grove_core.identity import Identity, peer_text
from grove_core.machine import Event, PeerId
from grove_core.outward import json_line, name_of, plain, printable, short

ME = Identity.from_seed(bytes(32)).peer
TEXT = peer_text(ME)


class ViewChanged(Event, frozen=True, gc=False):
    """A plugin's own event, unknown here."""

    leader: PeerId
    members: tuple[PeerId, ...]
    term: int


def test_an_event_is_its_name_in_snake_case_and_its_fields() -> None:
    assert plain(NeighborUp(ME)) == {"event": "neighbor_up", "peer": TEXT}
    assert name_of(PeerFound) == "peer_found"


def test_message_ids_are_hex_and_data_stays_bytes() -> None:
    assert plain(Delivered("village", b"\x01" * 16, ME, b"\xff", 2)) == {
        "event": "delivered",
        "topic": "village",
        "id": "01" * 16,
        "author": TEXT,
        "data": b"\xff",
        "hops": 2,
    }


def test_a_plugins_event_is_told_without_being_known() -> None:
    assert plain(ViewChanged(ME, (ME, ME), 7)) == {
        "event": "view_changed",
        "leader": TEXT,
        "members": [TEXT, TEXT],
        "term": 7,
    }


def test_a_line_of_json_carries_any_bytes() -> None:
    assert json.loads(json_line({"data": "grün ✓".encode()})) == {"data": "grün ✓"}
    assert json.loads(json_line({"data": b"\xff\x00"})) == {"data_base64": "/wA="}
    assert "\n" not in json_line(plain(Connected(ME, "tcp", "/ip4/1.2.3.4/tcp/1", True, "a\nb")))


@pytest.mark.claim("cli.safe-print")
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("hello, grün ✓", "hello, grün ✓"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("right\u202eleft", "right\\u202eleft"),
        (b"\xffraw\x07", "\\xffraw\\x07"),
    ],
)
def test_what_a_stranger_said_reaches_the_terminal_as_one_harmless_line(
    said: str | bytes, shown: str
) -> None:
    assert printable(said) == shown


def test_a_short_id_ends_as_the_long_one_does() -> None:
    assert short(TEXT) == f"12D3…{TEXT[-4:]}"
