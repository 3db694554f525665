"""Frames: four parts, bounded, one error. As docs/gateway.md promises them to other languages."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from grove_gateway import frames, verbs

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from tests import fuzz

PUBLISH = [
    b"\x01",
    b"\x00\x01",
    b"publish",
    b"\x82\xa5topic\xa1t\xa4data\xc4\x02hi",  # {"topic": "t", "data": b"hi"}, by the msgpack spec
]


def test_a_request_is_these_bytes() -> None:
    assert frames.encode_request(b"\x00\x01", "publish", {"topic": "t", "data": b"hi"}) == PUBLISH
    request = frames.decode_request(PUBLISH)
    assert (request.id, request.verb) == (b"\x00\x01", "publish")
    assert verbs.decode_ask("publish", request.body) == verbs.Publish("t", b"hi")


def test_an_answer_carries_the_id_and_a_map() -> None:
    parts = frames.encode_answer(b"7", "EVENT", {"seq": 1, "event": "delivered"})
    assert frames.decode_answer(parts) == frames.Answer(b"7", "EVENT", {"seq": 1, "event": "delivered"})


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "0 parts"),
        ([b"\x01"], "1 parts"),
        ([b"\x01", b"", b"status", b"\x80"], "without an id"),
        ([b"\x01", b"i" * 17, b"status", b"\x80"], "1 to 16 bytes"),
        ([b"\x01", b"i", b"status"], "3 parts"),
        ([b"\x01", b"i", b"status", b"\x80", b""], "5 parts"),
        ([b"\x02", b"i", b"status", b"\x80"], "speaks 01"),
        ([b"\x01", b"i", b"", b"\x80"], "verb of 0 bytes"),
        ([b"\x01", b"i", b"v" * 33, b"\x80"], "verb of 33 bytes"),
        ([b"\x01", b"i", b"Status", b"\x80"], "a-z"),
        ([b"\x01", b"i", b"status", b"\x80" * (frames.MAX_BODY + 1)], "limit 1048576"),
    ],
)
def test_what_is_not_a_request_is_told_apart(parts: list[bytes], says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        frames.decode_request(parts)


def test_another_version_can_still_be_answered() -> None:
    with pytest.raises(frames.WrongVersion):
        frames.decode_request([b"\x02", b"id", b"anything", b"else", b"and more"])


@pytest.mark.parametrize(
    "body", [b"", b"\xc0", b"\x90", b"\x81\x01\x01", b"\x80\x80", b"\x81\xa1a", b"\xff" * 9]
)
def test_a_body_is_one_map_with_text_keys(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        frames.decode_map(body)


def test_a_body_nested_without_end_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        frames.decode_map(b"\x81\xa1a" + b"\x91" * 100_000)


def test_our_own_side_keeps_the_limits_too() -> None:
    with pytest.raises(LocalProtocolError, match="limit 1048576"):
        frames.encode_request(b"i", "publish", {"data": b"x" * frames.MAX_BODY})
    with pytest.raises(LocalProtocolError, match="id of 17 bytes"):
        frames.encode_request(b"i" * 17, "status", {})
    with pytest.raises(LocalProtocolError, match="verb"):
        frames.encode_request(b"i", "Status", {})


def test_unknown_fields_of_a_body_are_ignored() -> None:
    """A later minor version may add some."""
    assert verbs.decode_ask("ping", msgspec.msgpack.encode({"peer": "x", "since": 3})) == verbs.Peer("x")


@pytest.mark.claim("gateway.frames-fuzz")
def test_mutated_frames_yield_the_declared_error_only() -> None:
    bodies = [
        {"topic": "t", "data": b"hi"},
        {"topics": ["a", "b"], "events": ["connected"]},
        {"subscription": b"12345678"},
        {"target": "/ip4/127.0.0.1/tcp/1"},
        {"ticket": "grove1", "deep": {"a": [1, 2.5, None, True, {"b": -1}]}},
    ]
    corpus = [msgspec.msgpack.encode(body) for body in bodies] + PUBLISH[:3]
    asked = list(verbs.ASKS)
    for number, data in enumerate(fuzz.mutations(7, corpus, fuzz.rounds())):
        verb = asked[number % len(asked)]
        with contextlib.suppress(RemoteProtocolError):
            frames.decode_map(data)
        with contextlib.suppress(RemoteProtocolError, verbs.Refused):
            verbs.decode_ask(verb, data)
        cut = number % (len(data) + 1)
        for parts in (
            [b"\x01", b"i", data, b"\x80"],
            [b"\x01", data, b"status", data],
            [data[:1], data[1:3], data[3:cut], data[cut:]],
            [b"\x01", b"i", b"OK", data],
        ):
            with contextlib.suppress(RemoteProtocolError):
                frames.decode_request(parts)
            with contextlib.suppress(RemoteProtocolError):
                frames.decode_answer(parts)
