"""Consensus group and observer group at one replica: asking for changes, and living through them.

What the rules are is in members.py. Here: a request of kind CHANGE is executed, its changes wait, and at
their checkpoint the configuration switches: new voters, new quorum, new name, view 0, nobody restarts.

Invariant: votes count only under the name of the configuration we are in, so no quorum mixes two. Votes
of the next one that come before we are there wait, bounded per sender.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from grove_core.events import LeaderChanged, MembersChanged, Rejected
from grove_core.machine import PeerId
from grove_pbft import members
from grove_pbft.config import Config
from grove_pbft.machine.clients import changes_in
from grove_pbft.machine.ordering import slot_key
from grove_pbft.machine.replica import Ctx
from grove_pbft.machine.views import Views
from grove_pbft.messages import CHANGE, Batch, Certificate, Change, PrePrepare, Request
from grove_pbft.quorum import Configuration

PAST: Final = 4
"""Configurations whose late votes are told from those of unknown ones."""
ENCODER: Final = msgspec.msgpack.Encoder()


class Groups(Views):
    """Joins, exits, promotions, demotions."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._ahead: dict[PeerId, list[Any]] = {}
        """Votes of a configuration we are not in yet, by sender."""
        self._past: dict[bytes, None] = {}

    # Asking.

    def reconfigure(self, ctx: Ctx, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...]) -> bytes:
        """Ask for these voters and observers; returns an id. Answered by MembersChanged once it is so,
        or by Rejected. With `sponsors = "weak"`, f + 1 voters must ask alike for what concerns
        others."""
        return self.change(ctx, members.difference(self.membership, voters, learners))

    def change(self, ctx: Ctx, changes: tuple[Change, ...]) -> bytes:
        """Ask for single steps; returns an id. Any member may bring in an observer, step down, or
        leave."""
        id = self.fresh_id(ctx)
        self.submit(ctx, id, CHANGE, ENCODER.encode(changes))
        return id

    # Executing.

    def executed_command(self, ctx: Ctx, request: Request) -> None:
        """A request that is not for the state machine: here, a change of members."""
        if request.kind != CHANGE:
            return
        changes = changes_in(request.command)
        sponsors = self.configuration.weak if self.config.sponsors == "weak" else 1
        if changes is None:
            reason = "no changes could be read"
        else:
            self.membership, reason = members.ask(
                self.membership, request.client, changes, sponsors, self.every, self.executed
            )
        heard = (members.WAITING, members.SPONSORED)
        if reason not in heard and request.client == ctx.me and not self.is_replaying:
            ctx.emit(Rejected(request.id, reason))

    def executed_batch(self, ctx: Ctx, seq: int, certificate: Certificate, batch: Batch) -> None:
        """Nothing more: here hosts and experiments look in."""

    def switch_members(self, ctx: Ctx) -> None:
        """The checkpoint that changes waited for: from here on others decide, or listen."""
        before = self.membership
        self.membership = members.switch(before, self.every)
        stay = self.membership.voters + self.membership.learners
        for peer in before.voters + before.learners:
            if peer not in stay:
                self.clients.forget(peer)
        if self.membership.number == before.number:
            self._members_changed(ctx)

    def enter_configuration(self, ctx: Ctx) -> None:
        """The voters have changed: another configuration begins at `executed`, in view 0."""
        old = self.configuration
        self._past[old.name] = None
        while len(self._past) > PAST:
            del self._past[next(iter(self._past))]
        now = self.membership
        self.configuration = Configuration(self.group, now.number, now.voters)
        self.view, self.is_changing, self.failed_views = 0, False, 0
        self.new_view, self.new_view_changes = None, {}
        self.arriving, self.changes = {}, {}
        self.stable, self.stable_proof = self.executed, None
        self.last_proposed = self.executed
        for seq in list(self.slots):
            self.save(ctx, slot_key(seq), None)
        self.forget_log(ctx)
        self.slots.clear()
        self.checkpoints.clear()
        self.roots.clear()
        self.farthest.clear()
        self.vouches.clear()
        self._save_view(ctx)
        if not self.is_replaying:
            self.end_view_timers(ctx)
            self.queue = {key: waiting.request for key, waiting in self.pending.items()}
            self._members_changed(ctx)
            ctx.emit(LeaderChanged(self.leader(), self.epoch))
            self.watch(ctx)
            self._hear_ahead(ctx)
            self.propose_batches(ctx)

    def _members_changed(self, ctx: Ctx) -> None:
        if not self.is_replaying:
            self.drop_strangers(ctx)
            self.hold_connections(ctx)
            now = self.membership
            ctx.emit(MembersChanged(self.index, now.voters, now.learners))

    # Votes of other configurations.

    def of_another_configuration(self, ctx: Ctx, peer: PeerId, msg: Any) -> None:
        """Late, early, or of a group that is not ours."""
        if msg.configuration in self._past:
            return
        voters, learners = members.expected(self.membership)
        if peer not in voters and peer not in learners and not self.is_member(peer):
            return
        kept = self._ahead.setdefault(peer, [])
        most = 2 if isinstance(msg, PrePrepare) else 6  # PRE-PREPAREs are large: at most a window of them
        if len(kept) < most * self.window:
            kept.append(msg)
        if not self.membership.switch:
            self.lag(ctx)

    def _hear_ahead(self, ctx: Ctx) -> None:
        ahead, self._ahead = self._ahead, {}
        for peer, kept in ahead.items():
            for msg in kept:
                if msg.configuration == self.configuration.name:
                    self.on_message(ctx, peer, msg)

    def restart_from_state(self, ctx: Ctx) -> None:
        """A state has taken the place of our own: begin in its configuration."""
        number = self.configuration.number
        for seq in list(self.slots):
            self.save(ctx, slot_key(seq), None)
        if self.membership.number != number:
            self.enter_configuration(ctx)
            return
        self.stable = max(self.stable, self.executed)
        self.forget_log(ctx)
        self._members_changed(ctx)

    # Declared for the last part.

    def end_view_timers(self, ctx: Ctx) -> None:
        raise NotImplementedError

    def hold_connections(self, ctx: Ctx) -> None:
        raise NotImplementedError
