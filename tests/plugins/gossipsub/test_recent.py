"""What is remembered of messages: equal bytes are one object, no two are confused, all is bounded."""

from __future__ import annotations

from hashlib import sha256

import pytest
from grove_gossipsub.messages import CODEC, DOMAIN, Publication, Rpc, content_id, signed_bytes
from grove_gossipsub.recent import LARGE_BYTES, SMALL, Copies, Recent, of_each

from grove_core.testing import peer


def test_what_is_put_last_makes_the_oldest_go_when_the_bytes_are_too_many() -> None:
    recent: Recent[str, int] = Recent(100)
    for number, name in enumerate("abc"):
        recent.put(name, number, 40)
    assert [recent.get(name) for name in "abc"] == [None, 1, 2]
    assert (recent.weight, len(recent)) == (80, 2)
    recent.put("b", 7, 10)
    assert (recent.get("b"), recent.weight) == (7, 50)
    recent.put("huge", 0, 101)
    assert recent.get("huge") is None
    assert recent.weight == 50


@pytest.mark.claim("gossipsub.remembered-bytes")
def test_of_messages_of_a_mebibyte_only_some_are_kept_alive() -> None:
    worked_out: list[Publication] = []

    def name(publication: Publication) -> bytes:
        worked_out.append(publication)
        return publication.seqno

    remembered = of_each(name)
    size = 1_000_000
    said = [Publication("t", bytes(size), seqno=bytes([n])) for n in range(20)]
    for one in said:
        assert remembered(one) == one.seqno
    kept = LARGE_BYTES // size
    for one in reversed(said):
        remembered(one)
    assert worked_out == [*said, *reversed(said[:-kept])]


@pytest.mark.parametrize("size", [0, SMALL, SMALL + 1, 500_000])
def test_a_copy_is_the_same_object_and_has_the_same_id(size: int) -> None:
    said = Publication("t", bytes(size), peer(1), bytes(8), b"signature" * 7)
    bodies = [CODEC.encode(Rpc(publish=(said,))) for _ in range(2)]
    first, second = (CODEC.decode(body).publish[0] for body in bodies)
    assert first == said
    assert first is second
    assert content_id(said) == sha256(signed_bytes(said)).digest()
    assert signed_bytes(said).startswith(DOMAIN)


def test_messages_whose_ends_are_equal_are_not_taken_for_each_other() -> None:
    read = Copies(bytes.upper)
    one, other = (b"a" * 5000 + middle + b"a" * 5000 for middle in (b"x", b"y"))
    assert [read(one), read(other), read(one)] == [one.upper(), other.upper(), one.upper()]
