"""The state machine: a map and exclusive claims, the same everywhere after the same commands.

Pure and without time: what a lease's end is, somebody's clock decided, and it is a command like the
others (consensus reference 7.2, after etcd's and Chubby's experience). The fencing token of a claim
is the index of its commit, so tokens rise over the whole log, and a resource that remembers the
highest it saw for a task can refuse an older holder by itself.

Invariants, after every command (`check` asserts them, the tests at every prefix):
1. A task has at most one live claim, and none once it is done.
2. The token of a claim is higher than that of every earlier claim.
3. A result is accepted only with the token of the live claim, from its holder, once.
4. Everything is bounded by `bounds`, which entered through the log themselves.
5. A command counts once: the second commit of one id changes nothing.
6. The snapshot is a function of the commands applied: equal at every member, byte for byte.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from grove_commons import commands as c
from grove_commons.events import (
    ClaimEnded,
    ClaimGranted,
    ClaimRenewed,
    KeyDeleted,
    KeyWritten,
    ResultRefused,
    TaskDone,
)
from grove_commons.outcomes import (
    STALE,
    Accepted,
    AnyOutcome,
    Done,
    Granted,
    Refused,
    Renewed,
)
from grove_core.errors import RemoteProtocolError
from grove_core.machine import Event, PeerId

MAX_OUTCOMES: Final = 32_768
"""Outcomes kept for proposers that have not closed their ask, over all sessions (about 100 B each)."""

MAX_SNAPSHOT: Final = 15 << 20
"""Bytes; two agreed halves of `bounds.size` (at most 11 MiB), and the sessions."""

OVERHEAD: Final = 96
"""Bytes counted for an entry besides its name and its value."""


class Value(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a key has. version: the index at which it was written."""

    data: bytes
    version: int


class Held(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A live claim. ttl: milliseconds. renewed: index of the claim or of its last renewal."""

    holder: PeerId
    agent: str
    token: int
    ttl: int
    renewed: int
    votes: tuple[PeerId, ...] = ()


class Finished(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A task that is done. index: of the commit that accepted its result."""

    holder: PeerId
    agent: str
    token: int
    index: int
    result: bytes


class Session(msgspec.Struct, gc=False, array_like=True):
    """One proposer in one life: which of its proposals took place. Below `floor` none ever will."""

    life: int
    floor: int
    outcomes: dict[int, AnyOutcome]


class Applied(NamedTuple):
    """What a commit came to. outcome: None if it changed nothing and was none of ours, or not new."""

    outcome: AnyOutcome | None
    news: tuple[Event, ...] = ()


NOTHING: Final = Applied(None)


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    index: int
    founded: bool
    bounds: c.Bounds
    keys: tuple[tuple[str, Value], ...]
    claims: tuple[tuple[str, Held], ...]
    done: tuple[tuple[str, Finished], ...]
    sessions: tuple[tuple[PeerId, Session], ...]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Snapshot)
_VERSION: Final = 1


class State:
    """The commons of a village as of `index`. Read the tables; change them only by `apply`."""

    __slots__ = (
        "_kept",
        "bounds",
        "claims",
        "done",
        "done_size",
        "founded",
        "index",
        "keys",
        "sessions",
        "size",
    )

    def __init__(self) -> None:
        self.index = 0
        """Of the last commit applied."""
        self.bounds = c.Bounds()
        self.founded = False
        """Whether the bounds came from the log; until then they are the built-in ones."""
        self.keys: dict[str, Value] = {}
        self.claims: dict[str, Held] = {}
        """Live claims, oldest first."""
        self.done: dict[str, Finished] = {}
        """Finished tasks, oldest first; the oldest are forgotten when there are too many."""
        self.sessions: dict[PeerId, Session] = {}
        """Proposers, least recently heard first."""
        self.size = 0
        """Bytes of keys and claims; at most half of `bounds.size`."""
        self.done_size = 0
        """Bytes of finished tasks; at most the other half."""
        self._kept = 0

    def apply(self, index: int, id: bytes, proposer: PeerId, data: bytes) -> Applied:
        """One commit, in the order of the log. Whatever stands in it, nothing is raised.

        A commit at or below `index` (consensus repeats itself after a restart) changes nothing.
        """
        if index <= self.index:
            return NOTHING
        self.index = index
        name = c.name_of(id)
        if name is None or not c.is_ours(data):
            return NOTHING
        try:
            entry = c.decode(data)
        except RemoteProtocolError:
            return NOTHING
        session = self._session(proposer, name, entry.oldest)
        if session is None:
            return NOTHING
        outcome, news = self._do(entry.command, proposer)
        session.outcomes[name.number] = outcome
        self._kept += 1
        while self._kept > MAX_OUTCOMES or len(self.sessions) > self.bounds.sessions:
            self._kept -= len(self.sessions.pop(next(iter(self.sessions))).outcomes)
        return Applied(outcome, tuple(news))

    # Once: sessions.

    def _session(self, proposer: PeerId, name: c.Name16, oldest: int) -> Session | None:
        """The session in which this proposal is new, or None if it is not, or comes out of bounds."""
        session = self.sessions.get(proposer)
        if session is not None and name.life < session.life:
            return None
        if session is None or name.life > session.life:
            self._kept -= 0 if session is None else len(session.outcomes)
            session = Session(name.life, oldest, {})
        if oldest > session.floor:
            closed = [number for number in session.outcomes if number < oldest]
            for number in closed:
                del session.outcomes[number]
            self._kept -= len(closed)
            session.floor = oldest
        self.sessions.pop(proposer, None)
        self.sessions[proposer] = session
        is_new = name.number >= session.floor and name.number not in session.outcomes
        return session if is_new and name.number < session.floor + self.bounds.window else None

    def outcome_of(self, proposer: PeerId, id: bytes) -> AnyOutcome | None:
        """What became of a proposal, if it was applied and is not closed."""
        name, session = c.name_of(id), self.sessions.get(proposer)
        if name is None or session is None or session.life != name.life:
            return None
        return session.outcomes.get(name.number)

    def life_of(self, proposer: PeerId) -> int:
        """The latest life in which a proposer was heard; 0 if it never was, or was forgotten."""
        session = self.sessions.get(proposer)
        return 0 if session is None else session.life

    # Commands.

    def _do(self, command: c.AnyCommand, by: PeerId) -> tuple[AnyOutcome, list[Event]]:
        news: list[Event] = []
        match command:
            case c.Put(key, value):
                outcome = self._write(key, value, by, news)
            case c.Delete(key):
                outcome = self._write(key, None, by, news)
            case c.CompareAndSet():
                outcome = self._compare_and_set(command, by, news)
            case c.Claim():
                outcome = self._claim(command, by, news)
            case c.Renew(claims):
                refusals = [self._renew(one, by, news) for one in claims]
                outcome = Renewed(self.index, tuple(one for one in refusals if one is not None))
            case c.Release(task, token):
                outcome = self._release(task, token, by, news)
            case c.Submit(task, token, result):
                outcome = self._submit(task, token, result, by, news)
            case c.Expire():
                outcome = self._expire(command, by, news)
            case c.Found(bounds):
                if not self.founded:
                    is_bare = not (self.keys or self.claims or self.done)
                    self.founded, self.bounds = True, bounds if is_bare else self.bounds
                outcome = Done(self.index)
        return outcome, news

    # The map.

    def _write(self, key: str, value: bytes | None, by: PeerId, news: list[Event]) -> AnyOutcome:
        old = self.keys.get(key)
        freed = 0 if old is None else _size(key, old.data)
        if value is None:
            if old is not None:
                del self.keys[key]
                self.size -= freed
                news.append(KeyDeleted(key, self.index, by))
            return Done(self.index)
        if old is None and len(self.keys) >= self.bounds.keys:
            return Refused("full", key, limit=self.bounds.keys)
        grown = self.size - freed + _size(key, value)
        if grown > self.bounds.size // 2:
            return Refused("full", key, limit=self.bounds.size // 2)
        self.size = grown
        self.keys[key] = Value(value, self.index)
        news.append(KeyWritten(key, value, self.index, by))
        return Done(self.index)

    def _compare_and_set(self, want: c.CompareAndSet, by: PeerId, news: list[Event]) -> AnyOutcome:
        old = self.keys.get(want.key)
        version = 0 if old is None else old.version
        data = None if old is None else old.data
        is_expected = data == want.expected if want.version is None else version == want.version
        if not is_expected:
            return Refused("differs", want.key, current=version)
        return self._write(want.key, want.value, by, news)

    # Claims.

    def _claim(self, want: c.Claim, by: PeerId, news: list[Event]) -> AnyOutcome:
        task, bounds = want.task, self.bounds
        if not bounds.lease_min <= want.ttl <= bounds.lease_max:
            limit = bounds.lease_min if want.ttl < bounds.lease_min else bounds.lease_max
            return Refused("lease", task, yours=want.ttl, limit=limit)
        done = self.done.get(task)
        if done is not None:
            return Refused("finished", task, done.holder, done.agent, done.token)
        held = self.claims.get(task)
        if held is not None:
            return Refused("held", task, held.holder, held.agent, held.token)
        grown = self.size + _size(task, want.agent.encode())
        if len(self.claims) >= bounds.claims:
            return Refused("full", task, limit=bounds.claims)
        if grown > bounds.size // 2:
            return Refused("full", task, limit=bounds.size // 2)
        self.size = grown
        self.claims[task] = Held(by, want.agent, self.index, want.ttl, self.index)
        news.append(ClaimGranted(task, by, want.agent, self.index, want.ttl / 1000))
        return Granted(self.index, want.ttl)

    def _renew(self, holding: c.Holding, by: PeerId, news: list[Event]) -> Refused | None:
        task, token = holding.task, holding.token
        held = self.claims.get(task)
        if held is None or held.token != token or held.holder != by:
            return self._stale(task, token)
        self.claims[task] = msgspec.structs.replace(held, renewed=self.index, votes=())
        news.append(ClaimRenewed(task, by, held.agent, token))
        return None

    def _release(self, task: str, token: int, by: PeerId, news: list[Event]) -> AnyOutcome:
        held = self.claims.get(task)
        if held is None or held.token != token or held.holder != by:
            return self._stale(task, token)
        self._free(task, held)
        news.append(ClaimEnded(task, by, held.agent, token, "released"))
        return Done(self.index)

    def _submit(self, task: str, token: int, result: bytes, by: PeerId, news: list[Event]) -> AnyOutcome:
        done = self.done.get(task)
        if done is not None and done.token == token and done.holder == by:
            return Accepted(done.index)  # asked again after an unknown outcome: the first one stands
        held = self.claims.get(task)
        if held is None or held.token != token or held.holder != by:
            refused = self._stale(task, token)
            news.append(ResultRefused(task, by, token, refused.current))
            return refused
        self._free(task, held)
        self.done[task] = Finished(by, held.agent, token, self.index, result)
        self.done_size += _size(task, result)
        while len(self.done) > self.bounds.done or self.done_size > self.bounds.size // 2:
            oldest = next(iter(self.done))
            self.done_size -= _size(oldest, self.done.pop(oldest).result)
        news.append(TaskDone(task, by, held.agent, token, result))
        return Accepted(self.index)

    def _expire(self, want: c.Expire, by: PeerId, news: list[Event]) -> AnyOutcome:
        task, held = want.task, self.claims.get(want.task)
        if held is None or held.token != want.token:
            return self._stale(task, want.token)
        if held.renewed > want.renewed:
            return Refused("renewed", task, held.holder, held.agent, held.token, want.token)
        votes = held.votes if by in held.votes else (*held.votes, by)
        if len(votes) < self.bounds.witnesses:
            self.claims[task] = msgspec.structs.replace(held, votes=votes)
            return Done(self.index)
        self._free(task, held)
        news.append(ClaimEnded(task, held.holder, held.agent, held.token, "expired"))
        return Done(self.index)

    def _free(self, task: str, held: Held) -> None:
        del self.claims[task]
        self.size -= _size(task, held.agent.encode())

    def _stale(self, task: str, token: int) -> Refused:
        """Why a token does not count: who has the task instead."""
        held, done = self.claims.get(task), self.done.get(task)
        if held is not None:
            code = "not-yours" if held.token == token else "taken"
            return Refused(code, task, held.holder, held.agent, held.token, token)  # type: ignore[arg-type]
        if done is not None:
            return Refused("finished", task, done.holder, done.agent, done.token, token)
        return Refused("ended", task, yours=token)

    # Whole.

    def snapshot(self) -> bytes:
        """Everything, as bytes; at most MAX_SNAPSHOT."""
        data = _encoder.encode(
            _Snapshot(
                _VERSION,
                self.index,
                self.founded,
                self.bounds,
                tuple(self.keys.items()),
                tuple(self.claims.items()),
                tuple(self.done.items()),
                tuple(self.sessions.items()),
            )
        )
        assert len(data) <= MAX_SNAPSHOT, f"snapshot of {len(data)} bytes; the bounds should forbid it"
        return data

    @classmethod
    def restore(cls, data: bytes) -> State:
        """The state a snapshot tells. Raises RemoteProtocolError, and nothing else, on any input."""
        if len(data) > MAX_SNAPSHOT:
            raise RemoteProtocolError(f"snapshot of {len(data)} bytes; limit {MAX_SNAPSHOT}")
        try:
            told = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise RemoteProtocolError(f"not a snapshot of the commons: {error}") from None
        if told.version != _VERSION:
            raise RemoteProtocolError(
                f"snapshot of version {told.version}; this node reads {_VERSION}; upgrade it"
            )
        state = cls()
        state.index, state.founded, state.bounds = told.index, told.founded, told.bounds
        state.keys, state.claims = dict(told.keys), dict(told.claims)
        state.done, state.sessions = dict(told.done), dict(told.sessions)
        state._measure()
        try:
            state.check()
        except AssertionError as error:
            raise RemoteProtocolError(f"the snapshot contradicts itself: {error}") from None
        return state

    def _measure(self) -> None:
        self.size = sum(_size(key, value.data) for key, value in self.keys.items())
        self.size += sum(_size(task, held.agent.encode()) for task, held in self.claims.items())
        self.done_size = sum(_size(task, done.result) for task, done in self.done.items())
        self._kept = sum(len(session.outcomes) for session in self.sessions.values())

    def check(self) -> None:
        """Assert the invariants that one state can show. For tests, checkers and snapshots received."""
        bounds = self.bounds
        assert len(self.claims) <= bounds.claims, f"{len(self.claims)} claims; limit {bounds.claims}"
        assert len(self.keys) <= bounds.keys, f"{len(self.keys)} keys; limit {bounds.keys}"
        assert len(self.done) <= bounds.done, f"{len(self.done)} done; limit {bounds.done}"
        assert len(self.sessions) <= bounds.sessions, f"{len(self.sessions)} sessions"
        assert 0 <= self.size <= bounds.size // 2, f"size {self.size}"
        assert 0 <= self.done_size <= bounds.size // 2, f"size of what is done {self.done_size}"
        assert 0 <= self._kept <= MAX_OUTCOMES, f"{self._kept} outcomes"
        tokens: dict[int, str] = {}
        for task, held in self.claims.items():
            assert task not in self.done, f"task {task} is done and claimed"
            assert 0 < held.token <= held.renewed <= self.index, f"task {task}: {held}"
            assert held.token not in tokens, f"token {held.token} is two tasks'"
            assert len(held.votes) < bounds.witnesses, f"task {task} should have expired"
            tokens[held.token] = task
        for task, done in self.done.items():
            assert 0 < done.token < done.index <= self.index, f"task {task}: {done.token}"
        for key, value in self.keys.items():
            assert 0 < value.version <= self.index, f"key {key}"


def _size(name: str, data: bytes) -> int:
    return OVERHEAD + len(name.encode()) + len(data)


def is_stale(outcome: Any) -> bool:
    """Whether an outcome refuses a token because it is not current."""
    return isinstance(outcome, Refused) and outcome.code in STALE
