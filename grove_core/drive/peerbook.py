"""What the node knows of other peers: addresses, protocols, agent, signed record.

Bounded by `limits.peers_known`, least recently used forgotten first; a peer that is in use (see
`pinned`) is never forgotten, so that what it speaks stays known while it is connected. Records are
believed only after their signature was checked, and a newer one replaces an older one whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.record import MAX_RECORD, verify_record
from grove_core.service import PeerEntry

MAX_ADDRESSES = 32
MAX_PROTOCOLS = 1024
MAX_AGENT = 128


class Book:
    """A `PeerBook`.

    me: never entered. pinned: whether a peer is in use. changed: called with a peer whose protocols
    are others than before.
    """

    def __init__(
        self,
        limit: int,
        me: PeerId,
        pinned: Callable[[PeerId], bool] = lambda peer: False,
        changed: Callable[[PeerId], None] = lambda peer: None,
    ) -> None:
        self._limit = limit
        self._me = me
        self._pinned = pinned
        self.changed = changed
        self._entries: OrderedDict[PeerId, PeerEntry] = OrderedDict()  # least recently used first
        self._signed: dict[PeerId, tuple[Multiaddr, ...]] = {}  # those that stand in the record

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._entries

    def get(self, peer: PeerId) -> PeerEntry:
        """What is known; an empty entry if nothing is."""
        entry = self._entries.get(peer)
        if entry is None:
            return PeerEntry(peer=peer)
        self._entries.move_to_end(peer)
        return entry

    def learn(
        self,
        peer: PeerId,
        *,
        addresses: Sequence[Multiaddr] = (),
        protocols: Sequence[str] | None = None,
        agent: str | None = None,
    ) -> None:
        """See `PeerBook.learn`. More than the bounds of `PeerEntry` is cut off."""
        if peer == self._me:
            return
        old = self.get(peer)
        signed = self._signed.get(peer, ())
        merged = dict.fromkeys((*signed, *_reaching(peer, addresses), *old.addresses))
        spoken = old.protocols if protocols is None else tuple(dict.fromkeys(protocols))[:MAX_PROTOCOLS]
        self._keep(
            PeerEntry(
                peer=peer,
                addresses=tuple(merged)[:MAX_ADDRESSES],
                protocols=spoken,
                agent=old.agent if agent is None else agent[:MAX_AGENT],
                record=old.record,
                sequence=old.sequence,
            )
        )
        if spoken != old.protocols:
            self.changed(peer)

    def learn_record(self, record: bytes) -> PeerId:
        """See `PeerBook.learn_record`. A record that is not newer is verified and then ignored."""
        told = verify_record(record)
        peer = told.peer
        if peer == self._me:
            return peer
        old = self.get(peer)
        if peer in self._signed and told.sequence <= old.sequence:
            return peer
        signed = tuple(dict.fromkeys(_reaching(peer, told.addresses)))[:MAX_ADDRESSES]
        outdated = self._signed.get(peer, ())
        others = (address for address in old.addresses if address not in outdated)
        self._signed[peer] = signed
        self._keep(
            PeerEntry(
                peer=peer,
                addresses=tuple(dict.fromkeys((*signed, *others)))[:MAX_ADDRESSES],
                protocols=old.protocols,
                agent=old.agent,
                record=record if len(record) <= MAX_RECORD else b"",  # else unfit to be passed on
                sequence=told.sequence,
            )
        )
        return peer

    def _keep(self, entry: PeerEntry) -> None:
        self._entries[entry.peer] = entry
        self._entries.move_to_end(entry.peer)
        if len(self._entries) <= self._limit:
            return
        for peer in self._entries:
            if peer != entry.peer and not self._pinned(peer):
                del self._entries[peer]
                self._signed.pop(peer, None)
                return
        # Every other peer is connected: the newcomer has to go, unless it is connected itself.
        if not self._pinned(entry.peer):
            del self._entries[entry.peer]
            self._signed.pop(entry.peer, None)


def _reaching(peer: PeerId, addresses: Sequence[Multiaddr]) -> Iterator[Multiaddr]:
    """The addresses that can be dialled for a peer, without /p2p at their end."""
    for address in addresses:
        if address.parts[-1][0] != "p2p":
            yield address
        elif len(address.parts) > 1 and address.peer == peer:
            yield address.without_peer()
