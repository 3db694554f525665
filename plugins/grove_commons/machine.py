"""The commons as a machine: asks become proposals, commits become outcomes (consensus reference 7).

It has no message of its own. What is asked of it (`put`, `claim`, `submit` …) it proposes to whoever
plays the role `consensus` on this node; what is committed it applies to its `State`, and the outcome
of its own proposals it tells as `Answered`. So the same object stands on Raft, on PBFT, on a
hierarchy of both, or on somebody else's consensus.

Left to others: agreement, its log and its disk (the consensus plugin keeps our snapshots too); the
asyncio face (`client.py`).

Leases. Every node hears every claim and every renewal, and counts its length on its own monotonic
clock from when it heard the commit. The leader proposes `Expire` when the time is over, the others
a while later in case it does not. The holder counts from before it *asked*, takes off the drift of
clocks and a margin, and stops then; so between honest clocks it has stopped before anybody may
say that it has not. Nothing rests on that: what keeps an old holder's result out is the token.

Invariants, between two inputs:
1. Every ask is answered once, after `patience` seconds at the latest.
2. A proposal keeps its id and its bytes over all retries; ids of a life are never used in another.
3. `keeping` names only claims whose `until` has not passed.
4. An agreed claim that nobody waits for any more (its ask was given up) is released again.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from grove_commons import commands as c
from grove_commons.config import Config
from grove_commons.events import (
    Answered,
    ClaimEnded,
    ClaimGranted,
    ClaimLost,
    ClaimRenewed,
    Read,
    TaskDone,
)
from grove_commons.outcomes import (
    Granted,
    Impossible,
    Outcome,
    Refused,
    Renewed,
    Unknown,
    sentence,
)
from grove_commons.state import Finished, Held, State, Value
from grove_core.errors import LocalProtocolError
from grove_core.events import (
    Committed,
    LeaderChanged,
    Proposed,
    ReadAsked,
    ReadReady,
    Rejected,
    Restored,
    SnapshotAsked,
    SnapshotTaken,
)
from grove_core.machine import Context, Event, Machine, PeerId, handles

LIFE: Final = "life"
KEEP: Final = "keep"

QUESTION: Final = 1 << 63
"""Set in the second half of a read's id, so that no proposal has it."""

TIMES: Final = 1024
"""Grants and results whose moment is remembered, for error texts."""

Ctx = Context[Any]


class Ask(msgspec.Struct):
    """Something this node waits for. asked, until: this node's clock, seconds."""

    kind: Literal["write", "read"]
    command: c.AnyCommand | None
    data: bytes
    asked: float
    until: float
    is_quiet: bool = False
    keep: bool = False
    tries: int = 0
    refused: int = 0
    reason: str = ""


class Kept(msgspec.Struct):
    """A claim of this node that the machine renews by itself. Times are this node's clock."""

    task: str
    agent: str
    token: int
    ttl: float
    until: float
    renew_at: float


class Commons(Machine[Any]):
    """One node's commons. Hears Committed, ReadReady, Rejected, Restored and LeaderChanged."""

    __slots__ = (
        "_asks",
        "_heard",
        "_is_current",
        "_is_founding",
        "_number",
        "_questions",
        "_snapshot_at",
        "_times",
        "_writes",
        "config",
        "keeping",
        "leader",
        "life",
        "state",
    )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = State()
        """What the village holds, as far as this node has heard."""
        self.keeping: dict[str, Kept] = {}
        """Claims of this node that are renewed by themselves, by task."""
        self.leader: PeerId | None = None
        self.life = 0
        self._number = 0
        self._questions = 0
        self._asks: dict[bytes, Ask] = {}  # at most config.open, and our own renewals
        self._writes: dict[int, None] = {}  # numbers of open proposals, ascending
        self._heard: dict[str, float] = {}  # task -> when its claim or last renewal was heard
        self._times: dict[int, float] = {}  # token -> when it was granted or its result accepted
        self._snapshot_at = 0
        self._is_founding = False
        self._is_current = False  # an own ask was answered: what is heard from now on happens now

    # What can be asked. Each returns the id that `Answered` (or `Read`) will carry.

    def put(self, ctx: Ctx, key: str, value: bytes) -> bytes:
        """Let a key have a value. Answered Done (its index is the new version) or Refused."""
        return self._propose(ctx, c.Put(key, value))

    def delete(self, ctx: Ctx, key: str) -> bytes:
        """Let a key have none. Answered Done."""
        return self._propose(ctx, c.Delete(key))

    def compare_and_set(
        self,
        ctx: Ctx,
        key: str,
        value: bytes | None,
        *,
        expected: bytes | None = None,
        version: int | None = None,
    ) -> bytes:
        """Change a key if it is as expected: by version if given, else by value (None: absent)."""
        return self._propose(ctx, c.CompareAndSet(key, value, expected, version))

    def claim(
        self, ctx: Ctx, task: str, agent: str = "", lease: float = 30.0, *, keep: bool = True
    ) -> bytes:
        """Want a task for this node's agent alone. Answered Granted (token, until) or Refused.

        lease: seconds, within the village's bounds. keep: renew it until it is submitted or released,
        and tell ClaimLost if that fails; else the asker renews it.
        """
        ttl = self._lease(lease)
        return self._propose(ctx, c.Claim(task, agent, ttl), keep=keep)

    def renew(self, ctx: Ctx, task: str, token: int) -> bytes:
        """Let a lease begin anew. Answered Renewed (until) or Refused."""
        return self._propose(ctx, c.Renew((c.Holding(task, token),)))

    def release(self, ctx: Ctx, task: str, token: int) -> bytes:
        """Give a claim back undone. Answered Done or Refused."""
        id = self._propose(ctx, c.Release(task, token))
        kept = self.keeping.get(task)
        if kept is not None and kept.token == token:
            self._let_go(ctx, task)
        return id

    def submit(self, ctx: Ctx, task: str, token: int, result: bytes) -> bytes:
        """Hand in a task's result. Answered Accepted, or Refused if the token is not current.

        Asking again with the same token after an unknown outcome is safe: the first one stands.
        """
        return self._propose(ctx, c.Submit(task, token, result))

    def read(self, ctx: Ctx) -> bytes:
        """Ask that what `peek`, `task` and `keys` say be as of now. Answered by a Read event."""
        self._admit(len(self._asks) >= self.config.open, self.config.open)
        self._questions += 1
        id = self.life.to_bytes(8, "big") + (QUESTION | self._questions).to_bytes(8, "big")
        now = ctx.now
        self._asks[id] = Ask("read", None, b"", now, now + self.config.patience)
        self._try(ctx, id)
        return id

    # What can be looked at: as far as this node has heard, which may be behind.

    def peek(self, key: str) -> Value | None:
        """What a key has, here."""
        return self.state.keys.get(key)

    def keys(self, prefix: str = "") -> tuple[str, ...]:
        """Keys that begin with prefix, ascending, here."""
        return tuple(sorted(key for key in self.state.keys if key.startswith(prefix)))

    def task(self, task: str) -> Held | Finished | None:
        """Who holds a task, or its result; None if it is free. Here."""
        return self.state.claims.get(task) or self.state.done.get(task)

    def explain(self, refused: Refused, now: float) -> str:
        """A refusal in a sentence. now: this node's clock."""
        at = self._times.get(refused.current)
        return sentence(refused, None if at is None else now - at)

    # A life.

    def on_start(self, ctx: Ctx) -> None:
        saved = ctx.load(LIFE)
        self.life = 1 + (int.from_bytes(saved, "big") if saved and len(saved) == 8 else 0)
        ctx.save(LIFE, self.life.to_bytes(8, "big"))

    def _be_reborn(self, ctx: Ctx) -> None:
        """The village remembers a later life of ours: our disk lost it. Begin one after that."""
        self.life = self.state.life_of(ctx.me) + 1
        ctx.save(LIFE, self.life.to_bytes(8, "big"))
        for id in [id for id, ask in self._asks.items() if ask.kind == "write"]:
            self._answer(ctx, id, Impossible("this node had forgotten an earlier life; ask again"))

    # Proposals.

    def _propose(
        self,
        ctx: Ctx,
        command: c.AnyCommand,
        *,
        keep: bool = False,
        is_quiet: bool = False,
        patience: float | None = None,
    ) -> bytes:
        """Make a proposal and wait for its outcome. Raises LocalProtocolError beyond a bound."""
        if not is_quiet:
            window = self.state.bounds.window
            span = self._number + 1 - next(iter(self._writes), self._number + 1)
            self._admit(len(self._asks) >= self.config.open, self.config.open)
            self._admit(span >= window - window // 8, window)  # the rest is for renewals
        if not self.state.founded and not self._is_founding:
            c.encode(command, 0)  # what is refused is refused before anything is proposed
            self._is_founding = True
            self._propose(ctx, c.Found(self.config.bounds), is_quiet=True)
        name = c.Name16(self.life, self._number + 1)
        data = c.encode(command, next(iter(self._writes), name.number))
        self._number = name.number
        now, id = ctx.now, name.pack()
        until = now + (self.config.patience if patience is None else patience)
        self._asks[id] = ask = Ask("write", command, data, now, until, is_quiet, keep)
        self._writes[name.number] = None
        if self.state.founded or isinstance(command, c.Found):
            self._try(ctx, id)
        else:  # what is asked of a village that is not founded waits for that
            ctx.set_timer(("ask", id), ask.until - now)
        return id

    def _founded(self, ctx: Ctx) -> None:
        """The bounds are agreed on: what waited for that is proposed."""
        for id in [id for id, ask in self._asks.items() if ask.kind == "write" and not ask.tries]:
            self._try(ctx, id)

    def _name(self) -> c.Name16:
        self._number += 1
        return c.Name16(self.life, self._number)

    def _admit(self, is_full: bool, limit: int) -> None:
        if is_full:
            raise LocalProtocolError(
                f"{limit} asks of this node wait for their outcome, its limit; wait for some of them"
            )

    def _lease(self, seconds: float) -> int:
        ttl = round(seconds * 1000) if 0 < seconds < 1e9 else 0
        shortest = (self.config.margin / (1 - self.config.drift)) * 1.5
        if ttl < 1 or seconds <= shortest:
            raise LocalProtocolError(
                f"a lease of {seconds:g} s; it must be longer than {shortest:.3g} s, or its holder could "
                "never be sure of it (plugins.commons.margin, drift)"
            )
        return ttl

    def _try(self, ctx: Ctx, id: bytes) -> None:
        """Propose, or propose again; then wait, longer each time."""
        ask = self._asks[id]
        ask.tries += 1
        ctx.emit(Proposed(id, ask.data) if ask.kind == "write" else ReadAsked(id))
        self._wait(ctx, id, self.config.retry)

    def _wait(self, ctx: Ctx, id: bytes, base: float) -> None:
        ask = self._asks[id]
        wait = base * 2 ** min(ask.tries - 1, 3) * ctx.rng.uniform(0.75, 1.25)
        ctx.set_timer(("ask", id), max(0.0, min(wait, ask.until - ctx.now)))

    @handles(Rejected)
    def on_rejected(self, ctx: Ctx, event: Rejected) -> None:
        ask = self._asks.get(event.id)
        if ask is not None:
            ask.refused += 1
            ask.reason = event.reason
            self._wait(ctx, event.id, self.config.refused_retry)

    def _overdue(self, ctx: Ctx, id: bytes) -> None:
        ask = self._asks.get(id)
        if ask is None:
            return
        if ctx.now < ask.until:
            self._try(ctx, id)
            return
        waited = f"{ctx.now - ask.asked:.3g} s"
        if not ask.tries:
            self._answer(ctx, id, Impossible("no majority can be reached to found the village"))
        elif ask.refused >= ask.tries:
            self._answer(ctx, id, Impossible(f"refused for {waited}: {ask.reason or 'no reason given'}"))
        else:
            self._answer(
                ctx,
                id,
                Unknown(f"no outcome within {waited}; {ask.reason or 'no majority can be reached'}"),
            )

    def _answer(self, ctx: Ctx, id: bytes, outcome: Outcome) -> None:
        """An ask ends, or one that was given up gets its outcome after all."""
        ask = self._asks.pop(id, None)
        if ask is None:
            self._unwanted(ctx, id, outcome)
            return
        ctx.cancel_timer(("ask", id))
        until = 0.0
        if ask.kind == "read":
            ctx.emit(Read(id, getattr(outcome, "reason", "")))
            return
        self._writes.pop(int.from_bytes(id[8:], "big"), None)
        match ask.command, outcome:
            case c.Claim(task, agent, _), Granted(token, ttl):
                until = self._until(ask.asked, ttl)
                if until <= ctx.now:
                    self._propose(ctx, c.Release(task, token), is_quiet=True)
                    outcome, until = Impossible("the lease was over before it was granted"), 0.0
                elif ask.keep:
                    third = ttl / 3000
                    kept = Kept(task, agent, token, ttl / 1000, until, ask.asked + third)
                    self.keeping[task] = kept
                    self._watch(ctx, kept)
            case c.Renew(claims), Renewed(_, lost):
                until = self._renewed(ctx, ask, claims, lost)
                if lost and not ask.is_quiet:
                    outcome, until = lost[0], 0.0
            case c.Found(), _:
                self._is_founding = False
        if not ask.is_quiet:
            ctx.emit(Answered(id, outcome, until))

    def _unwanted(self, ctx: Ctx, id: bytes, outcome: Outcome) -> None:
        """A claim was granted after its ask was given up: nobody would ever submit it."""
        name = c.name_of(id)
        if not isinstance(outcome, Granted) or name is None or name.life != self.life:
            return
        for task, held in self.state.claims.items():
            if held.token == outcome.token:
                self._propose(ctx, c.Release(task, held.token), is_quiet=True)
                return

    # Commits.

    @handles(Committed)
    def on_committed(self, ctx: Ctx, event: Committed) -> None:
        was_founded = self.state.founded
        applied = self.state.apply(event.index, event.id, event.proposer, event.command)
        if self.state.founded and not was_founded:
            self._founded(ctx)
        for news in applied.news:
            self._take(ctx, news)
            ctx.emit(news)
        if event.proposer == ctx.me:
            self._is_current |= event.id in self._asks
            if applied.outcome is not None:
                self._answer(ctx, event.id, applied.outcome)
            if self.state.life_of(ctx.me) > self.life:
                self._be_reborn(ctx)
        every = self.config.snapshot_every
        if event.index // every > self._snapshot_at // every:
            self._snapshot_at = event.index
            ctx.emit(SnapshotTaken(event.index, self.state.snapshot()))

    def _take(self, ctx: Ctx, news: Event) -> None:
        """What a change means for leases, and for the claims we keep."""
        match news:
            case ClaimGranted(task, _, _, token):
                self._remember(ctx, token)
                self._count(ctx, task)
            case ClaimRenewed(task):
                self._count(ctx, task)
            case ClaimEnded(task, _, _, token, reason):
                self._forget(ctx, task)
                kept = self.keeping.get(task)
                if kept is not None and kept.token == token:
                    self._lose(ctx, kept, reason)
            case TaskDone(task, _, _, token):
                self._remember(ctx, token)
                self._forget(ctx, task)
                if task in self.keeping and self.keeping[task].token == token:
                    self._let_go(ctx, task)

    def _remember(self, ctx: Ctx, token: int) -> None:
        """Note when something happened, unless we are hearing an old log again."""
        if not self._is_current:
            return
        self._times[token] = ctx.now
        if len(self._times) > TIMES:
            del self._times[next(iter(self._times))]

    @handles(SnapshotAsked)
    def on_snapshot_asked(self, ctx: Ctx, event: SnapshotAsked) -> None:
        """Every commit up to event.index has been heard, and none after it."""
        ctx.emit(SnapshotTaken(event.index, self.state.snapshot()))

    @handles(Restored)
    def on_restored(self, ctx: Ctx, event: Restored) -> None:
        """A whole state instead of commits: what we waited for may be in it."""
        if event.index <= self.state.index:
            return
        was_founded = self.state.founded
        self.state = State.restore(event.state)
        if self.state.founded and not was_founded:
            self._founded(ctx)
        self.state.index = max(self.state.index, event.index)
        self._snapshot_at = event.index
        for task in [task for task in self._heard if task not in self.state.claims]:
            self._forget(ctx, task)
        for task in self.state.claims:  # heard now: a lease may get longer by this, never shorter
            self._count(ctx, task)
        for kept in list(self.keeping.values()):
            held = self.state.claims.get(kept.task)
            if held is None or held.token != kept.token:
                self._lose(ctx, kept, "replaced")
        for id in list(self._asks):
            outcome = self.state.outcome_of(ctx.me, id)
            if outcome is not None:
                self._answer(ctx, id, outcome)
        if self.state.life_of(ctx.me) > self.life:
            self._be_reborn(ctx)

    @handles(ReadReady)
    def on_read_ready(self, ctx: Ctx, event: ReadReady) -> None:
        """Every commit up to event.index has been heard (see events.py): what we have is as of now."""
        if event.id in self._asks:
            self._is_current = True
            del self._asks[event.id]
            ctx.cancel_timer(("ask", event.id))
            ctx.emit(Read(event.id))

    # Leases, everybody's: who says that one has run out.

    @handles(LeaderChanged)
    def on_leader_changed(self, ctx: Ctx, event: LeaderChanged) -> None:
        was, self.leader = self.leader, event.leader
        if self.leader == ctx.me and was != ctx.me:
            for task in self.state.claims:
                self._arm(ctx, task)

    def _count(self, ctx: Ctx, task: str) -> None:
        """A lease begins: its length counts from now, on this clock."""
        self._heard[task] = ctx.now
        self._arm(ctx, task)

    def _arm(self, ctx: Ctx, task: str) -> None:
        left = self._heard[task] + self.state.claims[task].ttl / 1000 - ctx.now
        if self.leader != ctx.me and self.state.bounds.witnesses == 1:
            left += self._patient(ctx)
        ctx.set_timer(("lease", task), max(0.0, left))

    def _patient(self, ctx: Ctx) -> float:
        return self.config.witness_delay * ctx.rng.uniform(1.0, 2.0)

    def _forget(self, ctx: Ctx, task: str) -> None:
        self._heard.pop(task, None)
        ctx.cancel_timer(("lease", task))

    def _ran_out(self, ctx: Ctx, task: str) -> None:
        """The time of a lease is over here. A proposal nobody waits for: it is made again if need be."""
        held = self.state.claims.get(task)
        if held is None:
            return
        name = self._name()
        command = c.Expire(task, held.token, held.renewed)
        data = c.encode(command, next(iter(self._writes), name.number))
        ctx.emit(Proposed(name.pack(), data))
        ctx.set_timer(("lease", task), self._patient(ctx))

    # Leases, our own: renewed at a third, given up in time.

    def _until(self, asked: float, ttl: int) -> float:
        """When a holder must have stopped (consensus reference 7.2: ttl (1 - rho) - RTT_max)."""
        return asked + ttl / 1000 * (1 - self.config.drift) - self.config.margin

    def _watch(self, ctx: Ctx, kept: Kept) -> None:
        ctx.set_timer(("until", kept.task), max(0.0, kept.until - ctx.now))
        self._schedule(ctx)

    def _schedule(self, ctx: Ctx) -> None:
        if self.keeping:
            soonest = min(kept.renew_at for kept in self.keeping.values())
            ctx.set_timer(KEEP, max(0.0, soonest - ctx.now))
        else:
            ctx.cancel_timer(KEEP)

    def _keep(self, ctx: Ctx) -> None:
        """Renew what is due, and what will be soon, with one command."""
        due = [kept for kept in self.keeping.values() if kept.renew_at - ctx.now <= kept.ttl / 12]
        for start in range(0, len(due), c.MAX_BATCH):
            batch = due[start : start + c.MAX_BATCH]
            for kept in batch:
                kept.renew_at = ctx.now + kept.ttl / 3
            claims = tuple(c.Holding(kept.task, kept.token) for kept in batch)
            patience = max(0.001, min(kept.until for kept in batch) - ctx.now)
            self._propose(ctx, c.Renew(claims), is_quiet=True, patience=patience)
        self._schedule(ctx)

    def _renewed(
        self, ctx: Ctx, ask: Ask, claims: tuple[c.Holding, ...], lost: tuple[Refused, ...]
    ) -> float:
        """Our renewal was agreed on: whoever is not lost may go on. Until when (the first of them)."""
        over = {refused.name: None for refused in lost}
        first = 0.0
        for holding in claims:
            held = self.state.claims.get(holding.task)
            if holding.task in over or held is None:
                continue
            until = self._until(ask.asked, held.ttl)
            first = first or until
            kept = self.keeping.get(holding.task)
            if kept is not None and kept.token == holding.token and until > kept.until:
                kept.until = until
                self._watch(ctx, kept)
        return first

    def _lose(
        self, ctx: Ctx, kept: Kept, reason: Literal["silence", "expired", "released", "replaced"]
    ) -> None:
        self._let_go(ctx, kept.task)
        ctx.emit(ClaimLost(kept.task, kept.agent, kept.token, reason))

    def _let_go(self, ctx: Ctx, task: str) -> None:
        """Renew a claim no longer."""
        del self.keeping[task]
        ctx.cancel_timer(("until", task))
        self._schedule(ctx)

    # Timers.

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        match key:
            case ("ask", id):
                self._overdue(ctx, id)
            case ("lease", task):
                self._ran_out(ctx, task)
            case ("until", task) if task in self.keeping:
                self._lose(ctx, self.keeping[task], "silence")
            case "keep":
                self._keep(ctx)
