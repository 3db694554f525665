"""The log, on disk and in memory: hard state, entries and snapshot as records of the node (§3.5, §5).

    hard                 {term, vote}, always written together (hashicorp/raft#661)
    base                 the group's name and its founders, written once
    log/<first index>    a run of entries, as they were appended
    snap                 index, term, members and length of the newest snapshot
    snap/<index>/<n>     its state, in pieces
    damaged              names a loss of records, until the group has taken note of it

Each value begins with the CRC-32 of the rest. A run that is damaged, and everything behind it, is
forgotten. Such a member, and one whose driver says that it forgot (`LOST`), may have voted or
acknowledged what it no longer knows: the loss gets a name (`loss`), and while it has one the member
counts for nothing (`machine/losses.py`).

Invariants:
1. What is on the disk after any crash is a log this node had, perhaps shorter: runs are erased from
   the end, the run that a conflict cuts is rewritten whole, and where two overlap the later counts.
2. Entries up to `offset` are forgotten; offset <= snapshot.index <= last_index, or the log is empty
   behind the snapshot.
3. `members` is the configuration of the newest CONFIGURATION entry, committed or not (§4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

import msgspec

from grove_core.machine import LOST, Context, PeerId
from grove_raft.messages import CONFIGURATION, Entry, Members, decode_members

RUN_BYTES: Final = 4 << 20
"""Commands in one record; a record may have 16 MiB (Context.save)."""
PIECE_BYTES: Final = 4 << 20
"""State in one record."""
OVERHEAD: Final = 64
"""Bytes an entry is taken to weigh besides its command."""


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A state machine's whole state as of index, whose entry had term, under members."""

    index: int = 0
    term: int = 0
    members: Members = Members()
    state: bytes = b""


class _Hard(msgspec.Struct, frozen=True, array_like=True):
    term: int
    vote: PeerId | None


class _Base(msgspec.Struct, frozen=True, array_like=True):
    group: bytes
    members: Members


class _Meta(msgspec.Struct, frozen=True, array_like=True):
    index: int
    term: int
    members: Members
    length: int


_HARD = msgspec.msgpack.Decoder(_Hard)
_BASE = msgspec.msgpack.Decoder(_Base)
_META = msgspec.msgpack.Decoder(_Meta)
_RUN = msgspec.msgpack.Decoder(list[Entry])
_ENCODER = msgspec.msgpack.Encoder()

Ctx = Context[Any]


def weight(entry: Entry) -> int:
    """Bytes an entry is taken to cost, in memory as on the wire."""
    return len(entry.command) + OVERHEAD


class Log:
    """One member's durable state. Every change is saved before the method returns."""

    __slots__ = (
        "_configurations",
        "_runs",
        "base",
        "bytes",
        "entries",
        "group",
        "loss",
        "offset",
        "offset_term",
        "snapshot",
        "term",
        "vote",
    )

    def __init__(self) -> None:
        self.term = 0
        self.vote: PeerId | None = None
        self.group = b""
        self.base = Members()
        self.offset = 0
        self.offset_term = 0
        self.entries: list[Entry] = []
        """From offset + 1 on. To be read by others, changed here only."""
        self.bytes = 0
        self.snapshot = Snapshot()
        self.loss = b""
        """Names a loss of records that the group has not taken note of; empty if there is none."""
        self._runs: list[int] = []
        self._configurations: list[tuple[int, Members]] = []

    # Reading.

    @property
    def is_damaged(self) -> bool:
        """Whether this member may have promised what it does not know."""
        return bool(self.loss)

    @property
    def last_index(self) -> int:
        return self.offset + len(self.entries)

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self.offset_term

    def term_at(self, index: int) -> int | None:
        """The term of an entry; None if it is forgotten or was never there. 0 for index 0."""
        place = index - self.offset - 1
        if 0 <= place < len(self.entries):
            return self.entries[place].term
        if index == self.offset:
            return self.offset_term
        return self.snapshot.term if index == self.snapshot.index else None

    def entry(self, index: int) -> Entry:
        """An entry that is here: offset < index <= last_index."""
        assert self.offset < index <= self.last_index, f"entry {index} is not in the log"
        return self.entries[index - self.offset - 1]

    def part(self, first: int, entries: int, size: int) -> tuple[Entry, ...]:
        """From index first on, at most so many entries and bytes, but one entry at least if there is."""
        start = first - self.offset - 1
        assert start >= 0, f"entry {first} is forgotten"
        chosen = self.entries[start : start + entries]
        total = 0
        for place, entry in enumerate(chosen):
            total += len(entry.command) + OVERHEAD
            if total > size and place:
                return tuple(chosen[:place])
        return tuple(chosen)

    def like(self, index: int, term: int) -> tuple[int, int]:
        """The greatest place <= index whose term is <= term: (index, term), from where logs may agree."""
        index = min(index, self.last_index)
        while index > self.offset:
            found = self.entries[index - self.offset - 1].term
            if found <= term:
                return index, found
            index -= 1
        return index, self.term_at(index) or 0

    @property
    def members(self) -> Members:
        """The configuration in force here."""
        return self._configurations[-1][1] if self._configurations else self._first_members()

    @property
    def members_index(self) -> int:
        """Where the configuration in force was appended; 0 if by the founders."""
        return self._configurations[-1][0] if self._configurations else self.snapshot.index

    def members_at(self, index: int) -> Members:
        """The configuration in force at an index that is not before the snapshot."""
        for at, members in reversed(self._configurations):
            if at <= index:
                return members
        return self._first_members()

    def _first_members(self) -> Members:
        return self.snapshot.members if self.snapshot.index else self.base

    # Writing.

    def found(self, ctx: Ctx, group: bytes, members: Members) -> None:
        """Belong to a group. Once in a node's life."""
        assert not self.group, "this node belongs to a group already"
        self.group, self.base = group, members
        _save(ctx, "base", _Base(group, members))

    def save_hard(self, ctx: Ctx) -> None:
        """Make term and vote durable: to be called before anything that depends on them leaves."""
        _save(ctx, "hard", _Hard(self.term, self.vote))

    def append(self, ctx: Ctx, entries: Sequence[Entry]) -> None:
        """Add to the end, durably."""
        first = self.last_index + 1
        self.hold(entries)
        self.persist(ctx, first)

    def hold(self, entries: Sequence[Entry]) -> None:
        """Add to the end, in memory: a leader may send entries before it makes them durable (§10.2.1)."""
        for index, entry in enumerate(entries, self.last_index + 1):
            self.bytes += len(entry.command) + OVERHEAD
            if entry.kind == CONFIGURATION:
                self._configurations.append((index, decode_members(entry.command)))
        self.entries.extend(entries)

    def persist(self, ctx: Ctx, first: int) -> None:
        """Make durable what is held from first on."""
        for run in _runs(self.entries[first - self.offset - 1 :]):
            _save(ctx, f"log/{first:016x}", run)
            self._runs.append(first)
            first += len(run)

    def truncate(self, ctx: Ctx, last: int) -> None:
        """Forget everything behind an index: it conflicts with what a leader has (§3.5)."""
        assert last >= self.offset, "what is forgotten was committed"
        cut = self.entries[last - self.offset :]
        self.bytes -= sum(map(weight, cut))
        del self.entries[last - self.offset :]
        while self._configurations and self._configurations[-1][0] > last:
            self._configurations.pop()
        while self._runs and self._runs[-1] > last:
            ctx.save(f"log/{self._runs.pop():016x}", None)
        if self._runs and cut:
            # The newest run left may reach beyond the cut: write what is left of it.
            old = self._runs.pop()
            first = max(old, self.offset + 1)
            if first <= last:
                _save(ctx, f"log/{first:016x}", self.entries[first - self.offset - 1 :])
                self._runs.append(first)
            if first != old or first > last:
                ctx.save(f"log/{old:016x}", None)

    def take_snapshot(self, ctx: Ctx, index: int, state: bytes, trailing: int) -> None:
        """Keep a state as of a committed index, and forget entries but so many before it."""
        term = self.term_at(index)
        assert term is not None
        self._keep(ctx, Snapshot(index, term, self.members_at(index), state))
        self._forget(ctx, index - trailing)

    def install(self, ctx: Ctx, snapshot: Snapshot) -> None:
        """Take a leader's snapshot (§5.3): keep what follows it here if it matches, else nothing."""
        if self.term_at(snapshot.index) == snapshot.term and snapshot.index <= self.last_index:
            self._keep(ctx, snapshot)
            self._forget(ctx, snapshot.index)
            return
        self._keep(ctx, snapshot)
        for first in reversed(self._runs):
            ctx.save(f"log/{first:016x}", None)
        self._empty(snapshot)

    def heal(self, ctx: Ctx) -> None:
        """The group has taken note, and we have what it had when it did."""
        self.loss = b""
        ctx.save("damaged", None)

    def _keep(self, ctx: Ctx, snapshot: Snapshot) -> None:
        old = self.snapshot
        state = snapshot.state
        for number, at in enumerate(range(0, len(state), PIECE_BYTES)):
            _save_bytes(ctx, f"snap/{snapshot.index:016x}/{number:04x}", state[at : at + PIECE_BYTES])
        _save(ctx, "snap", _Meta(snapshot.index, snapshot.term, snapshot.members, len(state)))
        if old.index != snapshot.index:
            for key in ctx.saved(f"snap/{old.index:016x}/"):
                ctx.save(key, None)
        self.snapshot = snapshot
        while self._configurations and self._configurations[0][0] <= snapshot.index:
            self._configurations.pop(0)

    def _forget(self, ctx: Ctx, index: int) -> None:
        """Forget entries up to an index, run by run as far as the disk is concerned."""
        if index <= self.offset:
            return
        term = self.term_at(index)
        assert term is not None
        gone = self.entries[: index - self.offset]
        self.bytes -= sum(map(weight, gone))
        del self.entries[: index - self.offset]
        self.offset, self.offset_term = index, term
        while len(self._runs) > 1 and self._runs[1] <= index + 1:
            ctx.save(f"log/{self._runs.pop(0):016x}", None)
        if self._runs and not self.entries:
            ctx.save(f"log/{self._runs.pop(0):016x}", None)

    def _empty(self, snapshot: Snapshot) -> None:
        self._runs = []
        self._configurations = []
        self.entries = []
        self.bytes = 0
        self.offset, self.offset_term = snapshot.index, snapshot.term

    # Beginning a life.

    def load(self, ctx: Ctx) -> None:
        """Read what earlier lives left, and notice what is missing."""
        hard = _load(ctx, "hard", _HARD)
        base = _load(ctx, "base", _BASE)
        is_whole = self.is_remembered(ctx)
        if (hard is None and ctx.load("hard") is not None) or (
            base is None and ctx.load("base") is not None
        ):
            is_whole = False
        if hard is not None:
            self.term, self.vote = hard.term, hard.vote
        if base is not None:
            self.group, self.base = base.group, base.members
        self.loss = ctx.load("damaged") or b""
        is_whole = self._load_snapshot(ctx) and is_whole
        is_whole = self._load_runs(ctx) and is_whole
        self.term = max(self.term, self.last_term)
        if not is_whole:
            self.loss = ctx.rng.randbytes(16)  # a new one: what was noted before was before this loss
            ctx.save("damaged", self.loss)
            ctx.save(LOST, None)

    def is_remembered(self, ctx: Ctx) -> bool:
        """Whether the driver knows of no loss."""
        return ctx.load(LOST) is None

    def _load_snapshot(self, ctx: Ctx) -> bool:
        if ctx.load("snap") is None:
            return True
        meta = _load(ctx, "snap", _META)
        pieces: list[bytes] = []
        if meta is not None:
            for key in ctx.saved(f"snap/{meta.index:016x}/"):
                piece = _load_bytes(ctx, key)
                if piece is None:
                    break
                pieces.append(piece)
            for key in ctx.saved("snap/"):  # of one that was not finished, or not yet erased
                if not key.startswith(f"snap/{meta.index:016x}/"):
                    ctx.save(key, None)
        state = b"".join(pieces)
        if meta is None or len(state) != meta.length:
            for key in ctx.saved("snap"):
                ctx.save(key, None)
            return False
        self.snapshot = Snapshot(meta.index, meta.term, meta.members, state)
        return True

    def _load_runs(self, ctx: Ctx) -> bool:
        """Whether every run was whole and joined the one before, or the snapshot."""
        keys = ctx.saved("log/")
        snapshot = self.snapshot
        self._empty(snapshot)
        is_whole = True
        if keys and int(keys[0][4:], 16) <= snapshot.index + 1:
            self.offset = int(keys[0][4:], 16) - 1
            self.offset_term = snapshot.term if self.offset == snapshot.index else 0
        for place, key in enumerate(keys):
            run = _load(ctx, key, _RUN)
            first = int(key[4:], 16)
            if run is None or not self.offset < first <= self.last_index + 1:
                is_whole = False
                for lost in reversed(keys[place:]):
                    ctx.save(lost, None)
                break
            for entry in self.entries[first - self.offset - 1 :]:  # the later run is the newer one
                self.bytes -= weight(entry)
            del self.entries[first - self.offset - 1 :]
            self._runs.append(first)
            self.entries.extend(run)
            self.bytes += sum(map(weight, run))
        self._configurations = [
            (index, decode_members(entry.command))
            for index, entry in enumerate(self.entries, self.offset + 1)
            if entry.kind == CONFIGURATION and index > snapshot.index
        ]
        if self.last_index < snapshot.index or self.term_at(snapshot.index) != snapshot.term:
            # A snapshot was installed and the log it replaces not yet erased.
            for first in reversed(self._runs):
                ctx.save(f"log/{first:016x}", None)
            self._empty(snapshot)
        elif 0 < self.offset < snapshot.index:
            # The term before the first run is not written anywhere: begin one entry later.
            self.offset_term = self.entries[0].term
            self.bytes -= weight(self.entries.pop(0))
            self.offset += 1
        return is_whole


def _runs(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Cut so that each piece fits a record."""
    found: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        size += weight(entry)
        if size > RUN_BYTES and found[-1]:
            found.append([])
            size = weight(entry)
        found[-1].append(entry)
    return [run for run in found if run]


def _save_bytes(ctx: Ctx, key: str, value: bytes) -> None:
    ctx.save(key, crc32(value).to_bytes(4, "big") + value)


def _save(ctx: Ctx, key: str, value: Any) -> None:
    _save_bytes(ctx, key, _ENCODER.encode(value))


def _load_bytes(ctx: Ctx, key: str) -> bytes | None:
    """None if there is no such record, or if it is damaged."""
    value = ctx.load(key)
    if value is None or value[:4] != crc32(value[4:]).to_bytes(4, "big"):
        return None
    return value[4:]


def _load(ctx: Ctx, key: str, decoder: Any) -> Any:
    value = _load_bytes(ctx, key)
    if value is None:
        return None
    try:
        return decoder.decode(value)
    except msgspec.DecodeError:
        return None
