"""What is agreed on: the commands, how they stand in the log, and the names of proposals.

    b"grove/commons/1\\0"  then msgpack  [oldest, [name, …fields in order…]]

The prefix keeps the commons and whoever else proposes through the same consensus apart: a command
without it is not ours and is passed over, the same everywhere. The proposer stands in no command:
consensus says who it is.

A proposal's id is (life, number): which life of its node, ascending, and which proposal of that
life. With `oldest`, the lowest number that its proposer still waits for, this makes exactly-once
bounded: whatever is below can be forgotten, for it is never proposed again (Ongaro's dissertation,
6.3, has clients' sessions for the same end).
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from grove_core.errors import LocalProtocolError, RemoteProtocolError

PREFIX: Final = b"grove/commons/1\0"

MAX_NAME: Final = 256
"""Characters of a key or of a task's name."""

MAX_AGENT: Final = 64
"""Characters of an agent's name."""

MAX_VALUE: Final = 256 * 1024
"""Bytes of a value or a result. What is longer lies elsewhere, and its digest here."""

MAX_BATCH: Final = 64
"""Claims renewed by one command."""

MAX_COMMAND: Final = 640 * 1024
"""Bytes of an encoded command: two values (compare-and-set) and what stands around them."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Agent = Annotated[str, Meta(max_length=MAX_AGENT)]
Value = Annotated[bytes, Meta(max_length=MAX_VALUE)]
Number = Annotated[int, Meta(ge=0, lt=1 << 62)]
Milliseconds = Annotated[int, Meta(ge=1, le=1 << 40)]


class Bounds(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What all must judge alike, and so must not differ from one configuration to the next.

    They enter the log with `Found`, once, and hold for the village from then on.
    """

    keys: Annotated[int, Meta(ge=0, le=1 << 20)] = 4096
    claims: Annotated[int, Meta(ge=0, le=1 << 20)] = 4096
    done: Annotated[int, Meta(ge=1, le=1 << 20)] = 16_384
    size: Annotated[int, Meta(ge=1 << 20, le=11 << 20)] = 8 << 20
    sessions: Annotated[int, Meta(ge=1, le=1 << 16)] = 1024
    window: Annotated[int, Meta(ge=1, le=4096)] = 256
    lease_min: Milliseconds = 2_000
    lease_max: Milliseconds = 86_400_000
    witnesses: Annotated[int, Meta(ge=1, le=64)] = 1


class Command(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Base of what is agreed on."""


class Found(Command, frozen=True, gc=False):
    """Let these bounds hold. Only the first one in the log counts."""

    bounds: Bounds


class Put(Command, frozen=True, gc=False):
    """Let a key have a value, whatever it had."""

    key: Name
    value: Value


class Delete(Command, frozen=True, gc=False):
    """Let a key have no value. Done also if it had none."""

    key: Name


class CompareAndSet(Command, frozen=True, gc=False):
    """Let a key have a value (None: be absent) if it is as expected.

    version: the index at which it was last written, 0 for an absent key; safe against A-B-A. Without
    it the value is compared: expected None means absent.
    """

    key: Name
    value: Value | None
    expected: Value | None = None
    version: Number | None = None


class Claim(Command, frozen=True, gc=False):
    """Let a task be this agent's alone for ttl milliseconds from commit."""

    task: Name
    agent: Agent
    ttl: Milliseconds


class Holding(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A claim, as its holder names it."""

    task: Name
    token: Number


class Renew(Command, frozen=True, gc=False):
    """Let the leases of these claims begin anew. One command for all that a node holds."""

    claims: Annotated[tuple[Holding, ...], Meta(min_length=1, max_length=MAX_BATCH)]


class Release(Command, frozen=True, gc=False):
    """Give a claim back, its task undone."""

    task: Name
    token: Number


class Submit(Command, frozen=True, gc=False):
    """The result of a task, from whoever holds it. Accepted at most once, with the current token."""

    task: Name
    token: Number
    result: Value


class Expire(Command, frozen=True, gc=False):
    """A lease has run out by the proposer's clock: nobody renewed it for its whole length.

    renewed: the index of the last renewal the proposer knew; a later one makes this void.
    """

    task: Name
    token: Number
    renewed: Number


AnyCommand: TypeAlias = Found | Put | Delete | CompareAndSet | Claim | Renew | Release | Submit | Expire


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One command as it stands in the log, after the prefix."""

    oldest: Number
    command: AnyCommand


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Entry)


def encode(command: AnyCommand, oldest: int) -> bytes:
    """A command for the log. Raises LocalProtocolError beyond a bound, naming it."""
    for field in command.__struct_fields__:
        _check(field, getattr(command, field))
    data = _encoder.encode(Entry(oldest, command))
    try:
        _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise LocalProtocolError(f"{type(command).__name__}: {error}") from None
    return PREFIX + data


def _check(field: str, value: object) -> None:
    """The bounds that people run into, told in their words."""
    if isinstance(value, str):
        limit = MAX_AGENT if field == "agent" else MAX_NAME
        if len(value) > limit or not (value or field == "agent"):
            raise LocalProtocolError(f"{field} of {len(value)} characters; 1 to {limit} are allowed")
    elif isinstance(value, bytes) and len(value) > MAX_VALUE:
        raise LocalProtocolError(
            f"{field} of {len(value):,} bytes; limit {MAX_VALUE:,}. Keep it elsewhere (a log, a file) "
            "and agree on its digest"
        )


def is_ours(data: bytes) -> bool:
    """Whether a command of the log is meant for the commons."""
    return data.startswith(PREFIX)


def decode(data: bytes) -> Entry:
    """A command from the log. Raises RemoteProtocolError, and nothing else, on any input."""
    if not is_ours(data):
        raise RemoteProtocolError("not a command of the commons: it begins otherwise")
    if len(data) > MAX_COMMAND:
        raise RemoteProtocolError(f"command of {len(data)} bytes; limit {MAX_COMMAND}")
    try:
        return _decoder.decode(memoryview(data)[len(PREFIX) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"not a command of the commons: {error}") from None


class Name16(NamedTuple):
    """A proposal's id, taken apart."""

    life: int
    number: int

    def pack(self) -> bytes:
        """The 16 bytes of `Proposed.id`."""
        return self.life.to_bytes(8, "big") + self.number.to_bytes(8, "big")


def name_of(id: bytes) -> Name16 | None:
    """What an id says; None if it is not one of ours. Lives and numbers are below 2^62."""
    if len(id) != 16:
        return None
    name = Name16(int.from_bytes(id[:8], "big"), int.from_bytes(id[8:], "big"))
    return name if name.life < 1 << 62 and name.number < 1 << 62 else None
