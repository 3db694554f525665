"""Lost records: a member whose disk forgot counts for nothing until the group has taken note.

It may have voted in terms and acknowledged entries that it does not know of any more. Were it to vote
or acknowledge anew, two quorums that have only it in common would have nobody in common. (Alagappan and
others: "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018; Michael and others: "Recovering
Shared Objects Without Stable Storage", DISC 2017, on why asking others which term it is does not do:
votes of the earlier life may still be on their way.)

So a loss gets a name, drawn after it happened. While it has one, the member does not stand or vote,
and all its answers to a leader carry the name; no quorum counts them. The leader appends an entry with
the name. When the member sees that entry committed, it counts again.

Why that is enough, with Q a majority that counted the member before the loss, and R the entry:
1. A majority without it that decides later meets Q in somebody else, since |Q| - 1 + |majority| >= n.
2. R was committed by such a majority, in a term T. Nobody wins a term after T on a vote from before the
   loss: whoever asked for it had no R then, and somebody in both majorities has one.
3. What it acknowledged up to T is in the leader's log before R, which it has when it sees R committed.

A majority that forgets at once is not recovered from: the group stands still, and says nothing false.
"""

from __future__ import annotations

from typing import Final

from grove_core.machine import PeerId
from grove_raft.machine.configuration import Configuration
from grove_raft.machine.state import Ctx
from grove_raft.messages import NOOP, Entry
from grove_raft.progress import Progress

PATIENCE: Final = 4.0
"""Election timeouts after which a note that the member has not seen, having got a snapshot beyond it, is
made again."""


class Losses(Configuration):
    """How a member that forgot comes back."""

    def consider_loss(self, ctx: Ctx, peer: PeerId, progress: Progress, loss: bytes, held: int) -> None:
        """A member says that it forgot, or says so no longer. held: up to where it has our log."""
        if not loss:
            if 0 < progress.noted <= min(held, self.commit):
                progress.loss = b""
            return
        if loss != progress.loss:
            progress.loss = loss
            progress.match = 0
        elif ctx.now - progress.noted_at < PATIENCE * self.config.election_timeout:
            return
        progress.noted_at = ctx.now
        self.append_own(ctx, [Entry(self.log.term, NOOP, loss, peer)])
        progress.noted = self.log.last_index

    def loss_noted(self, ctx: Ctx, entry: Entry) -> None:
        """The group has taken note of somebody's loss; perhaps of ours."""
        if entry.id == self.log.loss and entry.proposer == ctx.me:
            self.log.heal(ctx)
