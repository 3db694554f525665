"""The global order at one member: handed over, kept, forgotten, and got from others.

What is agreed (the roll) and what is handed over here may differ: after an absence the roll is known
first, from the upper protocol or from the proof of an epoch, and the entries up to it are fetched. From
whom does not matter: the roll's chain commits to every entry, and its mark to a state.

    log/<position>     entries handed over, from the older of the two newest states on
    state/<position>   snapshots: the newest two that are agreed on and held

Every `snapshot_every` positions the state machine is asked for its state; members who got one say its
digest in the global order itself, and when f + 1 of a group did (ledger.py) it is agreed at one position
for all: then the log before the older state goes, and the upper protocol may forget what came before.

Invariants:
1. Positions are handed over in ascending order, each once per life, none that is not agreed.
2. What is fetched is handed over only when it leads to the chain, or hashes to the mark, of the roll.
3. What is kept is bounded by the two newest states and what came after the older.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from grove_core.events import (
    Committed,
    MembersChanged,
    ReadReady,
    Rejected,
    Restored,
    SnapshotAsked,
    SnapshotTaken,
)
from grove_core.machine import PeerId, Token, handles
from grove_hierarchy.ledger import follow, link, village_of
from grove_hierarchy.machine.order import Ctx, Order
from grove_hierarchy.messages import (
    COMMAND,
    MARK,
    MAX_CHUNK,
    MAX_ENTRIES,
    MAX_STATE,
    READ,
    Entry,
    Fetch,
    FetchState,
    Mark,
    Nothing,
    Piece,
    Roll,
    Segment,
    Snapshot,
    Wish,
    decode_entry,
    decode_snapshot,
    encode,
)

LOG: Final = "log/"
STATE: Final = "state/"
OPEN: Final = "open"
SEEK: Final = "seek"
FETCH: Final = "fetch"
FETCH_STATE: Final = "fetch state"

MAX_SEGMENT: Final = 512 * 1024
"""Bytes of commands in one answer, unless one alone is longer."""
KEPT: Final = 4
"""Positions whose roll, or state, waits for the other."""


class History(Order):
    """What was ordered, as this member has it."""

    def __init__(self, *parts: Any, **hosted: Any) -> None:
        super().__init__(*parts, **hosted)
        self.number = 0
        """Positions of the global order that were handed over."""
        self.chain = self.roll.chain
        """The chain as of `number`."""
        self.held: list[int] = []
        """Positions of the states in our records, ascending: at most two."""
        self._rolls: dict[int, Roll] = {}
        self._states: dict[int, bytes] = {}
        self._bodies: dict[int, bytes] = {}
        self._vouched: dict[int, int] = {}
        """Position of a body not agreed on yet -> times we looked and it was not."""
        self._target = (0, b"")
        self._ahead: dict[int, Entry] = {}
        """What is agreed behind the target, and waits for what is fetched."""
        self._fetched: list[Entry] = []
        self._running = b""
        self._body = bytearray()
        self._asking: PeerId | None = None

    # A position more.

    def take(self, ctx: Ctx, entry: Entry) -> None:
        """The next position of the global order is this."""
        if self.is_closed:
            return
        before = self.roll
        self.roll, refused = follow(self.config, self.village, before, entry)
        position = self.roll.position
        if position % self.config.snapshot_every == 0:
            _put(self._rolls, position, self.roll)
        is_news = position > self.number
        if position == self.number + 1:
            self.hand_over(ctx, entry)
        elif is_news:
            self._ahead[position] = entry
            if len(self._ahead) > self.config.pending:
                self.be_at(ctx, self.roll)  # fetch these too, later
            self.seek(ctx)
        if position in self._rolls:
            self._join(ctx, position)
        if refused and entry.proposer == ctx.me and self.answered(entry.id):
            ctx.emit(Rejected(entry.id, refused))
        if self.roll.mark != before.mark:
            self._marked(ctx)
        if self.roll.epoch != before.epoch:
            self.is_closed = True
            if is_news:
                ctx.emit(MembersChanged(position, self.roll.members))
            ctx.set_timer(OPEN, 0.0)

    def hand_over(self, ctx: Ctx, entry: Entry, *, again: bool = False) -> None:
        """Make one position durable and tell it. again: an earlier life did."""
        self.number += 1
        self.chain = self.roll.chain if self.number == self.roll.position else link(self.chain, entry)
        if not again:
            ctx.save(_log_key(self.number), encode(entry))
        is_own = entry.proposer == ctx.me and self.answered(entry.id)
        if entry.kind == COMMAND:
            ctx.emit(Committed(self.number, entry.id, entry.proposer, entry.command))
        elif entry.kind == READ and is_own:
            ctx.emit(ReadReady(entry.id, self.number))
        if self.number % self.config.snapshot_every == 0:
            ctx.emit(SnapshotAsked(self.number))

    def recall(self, ctx: Ctx) -> Roll:
        """Hand over what earlier lives had; gives the roll as of then."""
        states = [int(key[len(STATE) :], 16) for key in ctx.saved(STATE)]
        self.held = states
        if states:
            snapshot = decode_snapshot(ctx.load(_state_key(states[-1])) or b"")
            assert snapshot is not None, f"state {states[-1]} is not as it was saved"
            self._install(ctx, snapshot)
            self.roll = snapshot.roll
        village = village_of(self.config, self.roll)
        for key in ctx.saved(LOG):
            position = int(key[len(LOG) :], 16)
            if position != self.number + 1:
                continue
            entry = decode_entry(ctx.load(key) or b"")
            assert entry is not None, f"record {key!r} is no entry"
            epoch = self.roll.epoch
            self.roll, _ = follow(self.config, village, self.roll, entry)
            self.hand_over(ctx, entry, again=True)
            if position % self.config.snapshot_every == 0:
                _put(self._rolls, position, self.roll)
            if self.roll.epoch != epoch:
                village = village_of(self.config, self.roll)
        return self.roll

    # States.

    @handles(SnapshotTaken)
    def on_snapshot_taken(self, ctx: Ctx, event: SnapshotTaken) -> None:
        """The state machine answers SnapshotAsked. What it offers unasked is not needed."""
        if event.index % self.config.snapshot_every == 0 and event.index > self.roll.mark.position:
            _put(self._states, event.index, event.state)
            self._join(ctx, event.index)

    def _join(self, ctx: Ctx, position: int) -> None:
        """Roll and state of one position together are what a mark hashes."""
        roll, state = self._rolls.get(position), self._states.get(position)
        if roll is None or position > self.number or position in self._bodies:
            return
        is_blank = roll.mark.is_blank and position - roll.mark.position >= self.config.history
        if is_blank:
            state = b""
        if state is None:
            return
        body = encode(Snapshot(roll, state))
        if len(body) > MAX_STATE:
            return
        self._bodies[position] = body
        while len(self._bodies) > 2:
            del self._bodies[min(self._bodies)]
        if position not in self._bodies:
            return
        if position == self.roll.mark.position:
            self._hold(ctx)
        elif position > self.roll.mark.position:
            self._vouched[position] = 0
            self._vouch_in_turn(ctx, position)

    def _vouch_in_turn(self, ctx: Ctx, position: int) -> None:
        """f + 1 of one group speak for a state; if it is not agreed on soon, those of the next group."""
        groups = self.village.groups
        turn = position // self.config.snapshot_every + self._vouched[position] // 2
        is_our_turn = bool(self.inside) and groups[turn % len(groups)] is self.group
        if is_our_turn and ctx.me in self.group.first(turn, self.group.weak) and not self.is_closed:
            self._vouch(ctx, position)

    def _vouch(self, ctx: Ctx, position: int) -> None:
        body = self._bodies[position]
        snapshot = decode_snapshot(body)
        assert snapshot is not None
        is_blank = not snapshot.state and snapshot.roll.mark.is_blank
        mark = Mark(position, sha256(body).digest(), is_blank)
        self.ask_group(ctx, ctx.rng.randbytes(16), Wish(MARK, encode(mark)))

    def vouch_again(self, ctx: Ctx) -> None:
        """Those whose turn it was had their time: a state not agreed on yet is others' turn."""
        for position in tuple(self._vouched):
            if position not in self._bodies:
                del self._vouched[position]
            else:
                self._vouched[position] += 1
                if self._vouched[position] % 2 == 0:
                    self._vouch_in_turn(ctx, position)

    def _marked(self, ctx: Ctx) -> None:
        """A state is agreed on: here, and above, the past may be forgotten."""
        position = self.roll.mark.position
        for table in (self._bodies, self._states, self._rolls, self._vouched):
            for old in [old for old in table if old < position]:
                del table[old]
        self._vouched.pop(position, None)
        self._hold(ctx)
        self.forget_above(ctx)

    def _hold(self, ctx: Ctx) -> None:
        """Keep the state that is agreed on, if it is ours; let go of the one before the last."""
        mark = self.roll.mark
        body = self._bodies.pop(mark.position, None)
        if body is None or sha256(body).digest() != mark.digest or mark.position in self.held:
            return
        self._keep(ctx, mark.position, body)

    def _keep(self, ctx: Ctx, position: int, body: bytes) -> None:
        ctx.save(_state_key(position), body)
        self.held.append(position)
        for old in self.held[:-2]:
            ctx.save(_state_key(old), None)
        del self.held[:-2]
        for key in ctx.saved(LOG):
            if int(key[len(LOG) :], 16) > self.held[0]:
                break
            ctx.save(key, None)

    def forget_above(self, ctx: Ctx) -> None:
        """The upper protocol may keep the roll instead of what came before."""

    # Being where the roll is.

    def adopt(self, ctx: Ctx, roll: Roll) -> None:
        """This is agreed, though we did not follow it here: fetch what lies between."""
        self.roll = roll
        self.be_at(ctx, roll)

    def be_at(self, ctx: Ctx, roll: Roll) -> None:
        """Fetch up to here; what comes after waits."""
        self._target = (roll.position, roll.chain)
        self._ahead.clear()
        self._forget_fetched()
        self.seek(ctx)

    def _forget_fetched(self) -> None:
        self._fetched, self._running = [], self.chain
        self._body = bytearray()

    def seek(self, ctx: Ctx, server: PeerId | None = None) -> None:
        """Ask a member, drawn at random or the one that just answered, for what is missing here."""
        if self._asking is not None or self.number >= self._target[0]:
            return
        others = [peer for peer in self.village.members if peer != ctx.me]
        if not others:
            return
        if server is None:
            server = ctx.rng.choice(others)
            self._forget_fetched()
        self._asking = server
        timeout = 4 * self.config.patience
        if self._body:
            ctx.request(server, FetchState(self.roll.mark, len(self._body)), FETCH_STATE, timeout)
        else:
            ctx.request(server, Fetch(self.number + len(self._fetched)), FETCH, timeout)

    def sought_in_vain(self, ctx: Ctx) -> None:
        """Ask another one, in a while."""
        self._forget_fetched()
        ctx.set_timer(SEEK, self.config.patience)

    def on_segment(self, ctx: Ctx, peer: PeerId, msg: Any) -> None:
        """Entries on the way to the target, or none."""
        expected = self.number + len(self._fetched) + 1
        if not isinstance(msg, Segment) or msg.first != expected:
            self.sought_in_vain(ctx)
            return
        if not msg.entries:
            mark = self.roll.mark
            if mark.position > self.number:
                self._asking = peer
                ctx.request(peer, FetchState(mark, 0), FETCH_STATE, 4 * self.config.patience)
            else:
                self.sought_in_vain(ctx)
            return
        position, chain = self._target
        for entry in msg.entries:
            if self.number + len(self._fetched) == position:
                break
            self._fetched.append(entry)
            self._running = link(self._running, entry)
        if self.number + len(self._fetched) < position:
            self.seek(ctx, peer)
        elif self._running == chain:
            fetched, self._fetched = self._fetched, []
            for entry in fetched:
                self.hand_over(ctx, entry)
            self._catch_up_with_roll(ctx)
        else:
            self.sought_in_vain(ctx)  # a liar, or one that is behind an order that ended

    def _catch_up_with_roll(self, ctx: Ctx) -> None:
        """The gap is closed: what waited behind it follows."""
        ahead, self._ahead = self._ahead, {}
        for position, entry in ahead.items():
            if position == self.number + 1:
                self.hand_over(ctx, entry)
        for position in tuple(self._rolls):
            self._join(ctx, position)

    def on_piece(self, ctx: Ctx, peer: PeerId, msg: Any) -> None:
        """A piece of the state that the mark names."""
        mark = self.roll.mark
        if not isinstance(msg, Piece) or not msg.data or mark.position <= self.number:
            self.sought_in_vain(ctx)
            return
        self._body += msg.data
        if len(self._body) < msg.total:
            self.seek(ctx, peer)
            return
        body = bytes(self._body)
        snapshot = decode_snapshot(body) if sha256(body).digest() == mark.digest else None
        if snapshot is None:
            self.sought_in_vain(ctx)
            return
        self._install(ctx, snapshot)
        self._keep(ctx, mark.position, body)
        self._forget_fetched()
        if self.number < self._target[0]:
            self.seek(ctx, peer)
        else:
            self._catch_up_with_roll(ctx)

    def _install(self, ctx: Ctx, snapshot: Snapshot) -> None:
        self.number, self.chain = snapshot.roll.position, snapshot.roll.chain
        ctx.emit(Restored(self.number, snapshot.state))

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: Any) -> None:
        if key in (FETCH, FETCH_STATE):
            self._asking = None
            (self.on_segment if key == FETCH else self.on_piece)(ctx, peer, msg)
        else:
            super().on_reply(ctx, key, peer, msg)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if key in (FETCH, FETCH_STATE):
            self._asking = None
            self.sought_in_vain(ctx)
        else:
            super().on_failure(ctx, key, peer, reason)

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == SEEK:
            self.seek(ctx)
        else:
            super().on_timer(ctx, key)

    # Answering.

    def on_request(self, ctx: Ctx, peer: PeerId, msg: Any, token: Token) -> None:
        if isinstance(msg, Fetch | FetchState):
            known = peer in self.village.of or peer in self.roll.members
            ctx.reply(token, self._found(ctx, msg) if known else Nothing())
        else:
            super().on_request(ctx, peer, msg, token)

    def _found(self, ctx: Ctx, msg: Fetch | FetchState) -> Any:
        if isinstance(msg, Fetch):
            return Segment(msg.have + 1, self.entries_after(ctx, msg.have))
        body = ctx.load(_state_key(msg.mark.position)) if msg.mark.position in self.held else None
        if body is None or sha256(body).digest() != msg.mark.digest:
            return Nothing()
        return Piece(len(body), body[msg.offset : msg.offset + MAX_CHUNK])

    def entries_after(self, ctx: Ctx, have: int) -> tuple[Entry, ...]:
        """As many as fit one answer; none if they are forgotten, or not here yet."""
        entries: list[Entry] = []
        room = MAX_SEGMENT
        for position in range(have + 1, min(self.number, have + MAX_ENTRIES) + 1):
            entry = decode_entry(ctx.load(_log_key(position)) or b"")
            if entry is None or (entries and len(entry.command) > room):
                break
            room -= len(entry.command)
            entries.append(entry)
        return tuple(entries)


def _put(table: dict[int, Any], position: int, value: Any) -> None:
    table[position] = value
    while len(table) > KEPT:
        del table[min(table)]


def _log_key(position: int) -> str:
    return f"{LOG}{position:016x}"


def _state_key(position: int) -> str:
    return f"{STATE}{position:016x}"
