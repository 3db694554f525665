"""Raft by script: a few members, a bag of messages, and a text file that decides what happens next.

After the interaction scripts of etcd-io/raft (Apache-2.0), whose situations tests/scenarios/raft restates
in our own words and for our machine. A line is a step, or, if it begins with "=", what must hold then;
"#" begins a comment. Members are numbers; time passes for a member only when a script says so.

    members 3 [KEY=VALUE …]      voters 1 to 3, and what to set about Raft
    outside 2                    two more nodes that belong to nothing yet
    stand 1                      its patience is over
    lead 1                       stand, and settle
    settle [1 2 …]               deliver among these, or all, until nobody has anything to say
    deliver 1>2 [>3 1> …]        what is in the bag from whom to whom (either may be left out)
    lose 1>2 …                   the same, into nothing
    propose 1 NAME / beat 1 / check 1 / wait 1 SECONDS / break 1 2 / mend 1 2
    change 1 voters 1 2 learners 3      transfer 1 2      snapshot 1 INDEX      read 1
    slow 1 / saved 1 [COUNT]     its disk stops; so many of its records become durable, or all
    crash 1 / restart 1

    = 1 leader 2                 it is that in term 2; also follower, candidate, pre-candidate
    = 1 log 1 1 2                terms of its entries, as its memory has them
    = 1 commit 3                 = 1 voters 1 2    = 1 outgoing 1    = 1 learners 3   = 1 follows 2
    = 1 sees 2 probe 3           its account of 2: state and match; also replicate, snapshot
    = 1 paused 2 / = 1 running 2 whether its window to 2 is closed
    = bag 1>2 Append entries=1   such a message is under way; any of its fields may be given
    = none 1>2 [Append]          nothing (of the kind) is
    = 1 reads 2 / = 1 rejected TEXT             reads answered so far; why something was rejected last
    = 1 has NAME …               commands handed over, in order
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import msgspec
from grove_raft.config import Config
from grove_raft.machine import Raft
from grove_raft.machine.state import CHECK, ELECTION, FLUSH, HEARTBEAT, TELL, WAKE

from grove_core.errors import LocalProtocolError
from grove_core.events import Committed, ReadReady, Rejected, SnapshotTaken
from grove_core.machine import PeerId
from grove_core.multibase import base58
from grove_core.testing import Recorder, peer
from grove_core.testing.recorder import Connect, Emit, Save, Send

PEERS = sorted(peer(number) for number in range(9))
NUMBER = {one: number for number, one in enumerate(PEERS, 1)}


class Script(AssertionError):
    """A line that does not hold, or cannot be read."""


class Member:
    """A node of a script: its machine, its clock, and what its disk has not written yet."""

    def __init__(self, number: int, config: Config) -> None:
        self.number = number
        self.peer = PEERS[number - 1]
        self.config = config
        self.durable: dict[str, bytes] = {}
        self.is_slow = False
        self.held: deque[Any] = deque()
        self.events: list[Any] = []
        self.now = 0.0
        self.ctx: Recorder | None = None
        self.raft = Raft(config)

    def wake(self) -> None:
        self.raft = Raft(self.config)
        self.ctx = Recorder(self.peer, records=dict(self.durable), now=self.now)
        self.held.clear()


class Theatre:
    """The members, and what is under way between them: (from, to, message), in the order it was sent."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.bag: list[tuple[int, int, Any]] = []

    # Machines.

    def turn(self, one: Member) -> None:
        """What a machine wants at once, and what leaves it."""
        ctx = one.ctx
        while ctx is not None:
            due = [key for key in (WAKE, FLUSH, TELL) if key in ctx.timers]
            if not due:
                break
            ctx.fire(one.raft, due[0])
        if ctx is None:
            return
        effects = ctx.take()
        one.held.extend(effect for effect in effects if isinstance(effect, Save | Send | Emit))
        self.write(one, 0 if one.is_slow else None)
        for effect in effects:  # all know each other: a connection is there as soon as it is wanted
            other = self.members.get(NUMBER[effect.peer]) if isinstance(effect, Connect) else None
            if other is not None and other.ctx is not None:
                one.raft.on_peer_up(ctx, other.peer)
                self.turn(one)

    def write(self, one: Member, count: int | None = None) -> None:
        """Make records durable; what was called after the last of them takes place."""
        while one.held:
            effect = one.held[0]
            if isinstance(effect, Save):
                if count == 0:
                    return
                count = None if count is None else count - 1
                if effect.value is None:
                    one.durable.pop(effect.key, None)
                else:
                    one.durable[effect.key] = effect.value
            elif isinstance(effect, Send):
                self.bag.append((one.number, NUMBER[effect.peer], effect.msg))
            else:
                one.events.append(effect.event)
            one.held.popleft()

    def add(self, config: Config) -> None:
        one = self.members[len(self.members) + 1] = Member(len(self.members) + 1, config)
        self.start(one)

    def start(self, one: Member) -> None:
        one.wake()
        assert one.ctx is not None
        one.raft.on_start(one.ctx)
        self.turn(one)
        for other in self.members.values():
            if other is not one and other.ctx is not None:
                self.meet(one, other)

    def meet(self, one: Member, other: Member) -> None:
        for a, b in ((one, other), (other, one)):
            assert a.ctx is not None
            a.raft.on_peer_up(a.ctx, b.peer)
            self.turn(a)

    def arrive(self, place: int) -> None:
        source, to, msg = self.bag.pop(place)
        one = self.members[to]
        if one.ctx is not None:
            one.raft.on_message(one.ctx, PEERS[source - 1], msg)
            self.turn(one)

    def settle(self, among: tuple[int, ...]) -> None:
        for _ in range(10_000):
            found = [p for p, (a, b, _) in enumerate(self.bag) if a in among and b in among]
            if not found:
                return
            self.arrive(found[0])
        raise Script("they never fall silent")

    # Lines.

    def play(self, text: str) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split("#")[0].split()
            if not words:
                continue
            try:
                if words[0] == "=":
                    self.expect(words[1:])
                else:
                    self.step(words[0], words[1:])
            except (Script, AssertionError, KeyError) as error:
                raise Script(f"line {number}: {line.strip()}: {error}\n{self.picture()}") from error

    def step(self, verb: str, words: list[str]) -> None:
        if verb in ("members", "outside"):
            self.build(verb, words)
        elif verb == "settle":
            self.settle(tuple(map(int, words)) or tuple(self.members))
        elif verb in ("deliver", "lose"):
            for word in words:
                while (place := self.find(word)) is not None:
                    if verb == "lose":
                        del self.bag[place]
                    elif place is not None:
                        self.arrive(place)
        else:
            self.act(verb, self.members[int(words[0])], words[1:])

    def build(self, verb: str, words: list[str]) -> None:
        given = dict(word.split("=") for word in words[1:])
        settings = {
            "heartbeat": 0.1,
            "trailing": 0,
            **{k: msgspec.json.decode(v) for k, v in given.items()},
        }
        count = int(words[0])
        voters = tuple(map(base58, PEERS[:count])) if verb == "members" else ()
        for _ in range(count):
            self.add(msgspec.convert({**settings, "voters": voters}, Config))

    def act(self, verb: str, one: Member, words: list[str]) -> None:
        if verb == "restart":
            self.start(one)
            return
        if verb == "slow":
            one.is_slow = True
            return
        if verb == "saved":
            self.write(one, int(words[0]) if words else None)
            one.is_slow = bool(words)
            return
        raft, ctx = one.raft, one.ctx
        assert ctx is not None, f"{one.number} is down"
        if verb in ("stand", "lead"):
            raft._patient_since = float("-inf")
            raft.on_timer(ctx, ELECTION)
        elif verb == "propose":
            raft.propose(ctx, words[0].encode())
        elif verb == "beat":
            raft.on_timer(ctx, HEARTBEAT)
        elif verb == "check":
            raft.on_timer(ctx, CHECK)
        elif verb == "wait":
            one.now += float(words[0])
            ctx.advance(float(words[0]))
        elif verb == "change":
            self.change(raft, ctx, words)
        elif verb == "transfer":
            raft.transfer(ctx, PEERS[int(words[0]) - 1])
        elif verb == "snapshot":
            raft.on_event(ctx, SnapshotTaken(int(words[0]), b"state"))
        elif verb == "read":
            raft.read(ctx)
        elif verb == "crash":
            one.ctx = None
            one.is_slow = False
            for other in self.members.values():
                if other.ctx is not None:
                    other.raft.on_peer_down(other.ctx, one.peer)
                    self.turn(other)
            return
        elif verb in ("break", "mend"):
            other = self.members[int(words[0])]
            if verb == "mend":
                self.meet(one, other)
            else:
                raft.on_peer_down(ctx, other.peer)
        else:
            raise Script(f"nobody can {verb!r}")
        self.turn(one)
        if verb == "lead":
            self.settle(tuple(self.members))

    def change(self, raft: Raft, ctx: Recorder, words: list[str]) -> None:
        at = words.index("learners") if "learners" in words else len(words)
        voters, learners = (
            tuple(PEERS[int(word) - 1] for word in some) for some in (words[1:at], words[at + 1 :])
        )
        try:
            raft.reconfigure(ctx, voters, learners)
        except LocalProtocolError as error:
            self.members[NUMBER[ctx.me]].events.append(Rejected(b"", str(error), None))

    def find(self, word: str, kind: str = "", fields: dict[str, Any] | None = None) -> int | None:
        source, to = word.split(">")
        for place, (a, b, msg) in enumerate(self.bag):
            if source in ("", str(a)) and to in ("", str(b)) and kind in ("", type(msg).__name__):
                told = {
                    name: len(value) if isinstance(value, tuple) else value
                    for name in msg.__struct_fields__
                    for value in [getattr(msg, name)]
                }
                if all(told[name] == value for name, value in (fields or {}).items()):
                    return place
        return None

    # What must hold.

    def expect(self, words: list[str]) -> None:
        if words[0] in ("bag", "none"):
            fields = {k: msgspec.json.decode(v) for k, v in (w.split("=") for w in words[3:])}
            found = self.find(words[1], words[2] if len(words) > 2 else "", fields)
            if (found is None) == (words[0] == "bag"):
                raise Script("not so")
            return
        one = self.members[int(words[0])]
        found_, wanted = self.look(one, words[1], words[2:]), words[2:]
        if found_ != wanted:
            raise Script(f"it is {' '.join(found_)}")

    def look(self, one: Member, what: str, words: list[str]) -> list[str]:
        raft, members = one.raft, one.raft.log.members
        if what in ("leader", "follower", "candidate", "pre-candidate"):
            return [str(raft.log.term)] if raft.standing == what else [raft.standing]
        if what == "log":
            return [str(entry.term) for entry in raft.log.entries]
        if what == "commit":
            return [str(raft.commit)]
        if what in ("voters", "outgoing", "learners"):
            some = (
                members.learners + members.learners_next if what == "learners" else getattr(members, what)
            )
            return [str(NUMBER[p]) for p in sorted(some)]
        if what == "follows":
            return [str(NUMBER[raft.leader()])] if raft.leader() is not None else ["nobody"]
        if what == "reads":
            return [str(sum(isinstance(event, ReadReady) for event in one.events))]
        if what == "has":
            return [event.command.decode() for event in one.events if isinstance(event, Committed)]
        if what == "rejected":
            reasons = [event.reason for event in one.events if isinstance(event, Rejected)]
            return words if reasons and " ".join(words) in reasons[-1] else reasons[-1:] or ["nothing"]
        progress = raft.progress.get(PeerId(PEERS[int(words[0]) - 1]))
        if what == "sees":
            assert progress is not None, "it keeps no account"
            return [words[0], progress.state, str(progress.match)]
        if what in ("paused", "running"):
            assert progress is not None, "it keeps no account"
            is_full = progress.inflight_entries >= raft.config.inflight_entries
            is_paused = is_full or (progress.state == "probe" and progress.is_paused)
            return words if is_paused == (what == "paused") else ["otherwise"]
        raise Script(f"nothing is known of {what!r}")

    def picture(self) -> str:
        lines = [
            f"  {n}: {m.raft.standing} {m.raft.log.term}, commit {m.raft.commit}, log "
            f"{[entry.term for entry in m.raft.log.entries]} behind {m.raft.log.offset}"
            for n, m in self.members.items()
        ]
        return "\n".join(lines + [f"  {a}>{b} {msg}" for a, b, msg in self.bag])


def play(path: Path) -> None:
    """Play one script. Script if a line does not hold."""
    Theatre().play(path.read_text())
