"""GossipSub on the wire: one RPC per frame, proto2, as libp2p/specs pubsub and its v1.0 to v1.3 say.

    RPC     { 1 subscriptions*  2 publish*  3 control }
    SubOpts { 1 subscribe  2 topicid }
    Message { 1 from  2 data  3 seqno  4 topic  5 signature  6 key }
    Control { 1 ihave*  2 iwant*  3 graft*  4 prune*  5 idontwant*  6 extensions }
    IHave { 1 topicID  2 messageIDs* }       IWant, IDontWant { 1 messageIDs* }      Graft { 1 topicID }
    Prune { 1 topicID  2 peers* { 1 peerID  2 signedPeerRecord }  3 backoff, seconds }

The author signs `libp2p-pubsub:` and fields 1 to 4 in ascending order; `data` and `topic` are written
even when empty, the others only when they hold something. Signatures are checked over the same
re-encoding, so what was signed cannot differ from what is read. Unknown fields are skipped, the
drafts' among them: their numbers collide (6 of Control is something else in the 2.0 draft).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Final

import msgspec

from grove_core import protobuf
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.machine import Message, PeerId
from grove_core.specs import Proof
from grove_gossipsub.recent import Copies, of_each

DOMAIN: Final = b"libp2p-pubsub:"

MAX_RPC: Final = 1 << 20
"""Bytes of an RPC we read: go-libp2p-pubsub's default. rust reads 65,536."""
SEND_RPC: Final = 60 * 1024
"""Bytes of an RPC we make out of more than one thing, so that rust's default peers take it."""
SEND_CONTROL: Final = 12 * 1024
"""Bytes of subscriptions and control in one RPC of ours; rust refuses more than 16 KiB."""
OVERHEAD: Final = 1024
"""Bytes of a message beside its data: author, seqno, topic, signature, key (RSA 4096: 550), tags."""
MAX_ENTRIES: Final = 65_536
"""Things (messages, ids, topics, peers) in one RPC: what 1 MiB of 20-byte ids holds, and some."""
MAX_TOPIC: Final = 512
"""Bytes of a topic's name in UTF-8."""
MAX_ID: Final = 256
"""Bytes of a message id we keep or ask for."""
MAX_PEERS: Final = 64
"""Peers we read from one PRUNE; the usual number is 16."""


class Publication(msgspec.Struct, frozen=True, gc=False):
    """The specification's Message. The same object travels from node to node in a simulation.

    Under StrictNoSign only topic and data are there. key: a PublicKey message, if `author` holds none.
    """

    topic: str
    data: bytes
    author: PeerId = PeerId(b"")
    seqno: bytes = b""
    signature: bytes = b""
    key: bytes = b""


class Subscription(msgspec.Struct, frozen=True, gc=False):
    """The sender wants a topic, or wants it no longer."""

    subscribe: bool
    topic: str


class IHave(msgspec.Struct, frozen=True, gc=False):
    """The sender has seen these messages of a topic lately."""

    topic: str
    ids: tuple[bytes, ...]


class IWant(msgspec.Struct, frozen=True, gc=False):
    """Send me these."""

    ids: tuple[bytes, ...]


class Graft(msgspec.Struct, frozen=True, gc=False):
    """You are in my mesh."""

    topic: str


class PeerInfo(msgspec.Struct, frozen=True, gc=False):
    """A peer of the topic, with its signed record if the sender has one."""

    peer: bytes
    record: bytes = b""


class Prune(msgspec.Struct, frozen=True, gc=False):
    """You are not in my mesh; here are others. backoff: seconds not to graft me, 0 if not said (1.0)."""

    topic: str
    peers: tuple[PeerInfo, ...] = ()
    backoff: int = 0


class IDontWant(msgspec.Struct, frozen=True, gc=False):
    """I have these; spare the copies (1.2)."""

    ids: tuple[bytes, ...]


class Rpc(Message, frozen=True, gc=False):
    """One frame. extensions: whether a ControlExtensions is there (1.3); ours is empty."""

    subscriptions: tuple[Subscription, ...] = ()
    publish: tuple[Publication, ...] = ()
    ihave: tuple[IHave, ...] = ()
    iwant: tuple[IWant, ...] = ()
    graft: tuple[Graft, ...] = ()
    prune: tuple[Prune, ...] = ()
    idontwant: tuple[IDontWant, ...] = ()
    extensions: bool = False


# Names and signatures.


@of_each
def signed_bytes(publication: Publication) -> bytes:
    """What the author signs: the prefix and fields 1 to 4."""
    return DOMAIN + _fields_1_to_4(publication)


@of_each
def content_id(publication: Publication) -> bytes:
    """Grove's message id: SHA-256 of the signed bytes, 32 bytes; equal in every stack that can hash."""
    return sha256(signed_bytes(publication)).digest()


def libp2p_id(publication: Publication) -> bytes:
    """The id of go and py: author, then seqno. Without an author, as js: SHA-256 of data."""
    if publication.author:
        return publication.author + publication.seqno
    return sha256(publication.data).digest()


def head_id(publication: Publication) -> bytes:
    """The id of libp2p's gossipsub-interop: the first 8 bytes of the data, or fewer if that is all."""
    return publication.data[:8]


NAMED: Final = {"content": content_id, "libp2p": libp2p_id, "head": head_id}
"""Config.message_id -> what names messages."""


def proofs(rpc: Rpc) -> Iterable[Proof]:
    """One for each message that carries a signature, in order (see `signed`)."""
    return [Proof(p.author, signed_bytes(p), p.signature, p.key) for p in rpc.publish if p.signature]


def forged(rpc: Rpc, bad: tuple[int, ...]) -> dict[int, None]:
    """The places in `publish` of the messages whose proofs, by their index, do not hold."""
    signed = [place for place, p in enumerate(rpc.publish) if p.signature]
    return {signed[index]: None for index in bad}


def is_control(rpc: Rpc) -> bool:
    """Whether an RPC carries no message: it is small, and its order among messages means nothing."""
    return not rpc.publish


# To bytes.


class RpcCodec:
    """Encodes and decodes the body of a frame."""

    max_size = MAX_RPC

    def encode(self, msg: Rpc) -> bytes:
        """One RPC. LocalProtocolError beyond max_size."""
        field = protobuf.field
        parts = [field(1, field(1, s.subscribe) + field(2, s.topic.encode())) for s in msg.subscriptions]
        parts += [field(2, _publication(p)) for p in msg.publish]
        control = [
            *(field(1, field(1, i.topic.encode()) + _ids(2, i.ids)) for i in msg.ihave),
            *(field(2, _ids(1, i.ids)) for i in msg.iwant),
            *(field(3, field(1, g.topic.encode())) for g in msg.graft),
            *(field(4, _prune(p)) for p in msg.prune),
            *(field(5, _ids(1, i.ids)) for i in msg.idontwant),
        ]
        if msg.extensions:
            control.append(field(6, b""))
        if control:
            parts.append(field(3, b"".join(control)))
        data = b"".join(parts)
        if len(data) > MAX_RPC:
            raise LocalProtocolError(f"RPC of {len(data)} bytes; limit {MAX_RPC}")
        return data

    def decode(self, data: bytes) -> Rpc:
        """One RPC. Raises RemoteProtocolError, and nothing else, on any input."""
        if len(data) > MAX_RPC:
            raise RemoteProtocolError(f"RPC of {len(data)} bytes; limit {MAX_RPC}")
        return _Reader().rpc(data)


CODEC: Final = RpcCodec()


def _ids(number: int, ids: Iterable[bytes]) -> bytes:
    return b"".join([protobuf.field(number, one) for one in ids])


def _fields_1_to_4(p: Publication) -> bytes:
    field = protobuf.field
    return b"".join(
        (
            field(1, p.author) if p.author else b"",
            field(2, p.data),
            field(3, p.seqno) if p.seqno else b"",
            field(4, p.topic.encode()),
        )
    )


def _publication(p: Publication) -> bytes:
    field = protobuf.field
    signature = field(5, p.signature) if p.signature else b""
    return _fields_1_to_4(p) + signature + (field(6, p.key) if p.key else b"")


def _prune(p: Prune) -> bytes:
    field = protobuf.field
    peers = [
        field(2, field(1, info.peer) + (field(2, info.record) if info.record else b""))
        for info in p.peers
    ]
    backoff = field(3, p.backoff) if p.backoff else b""
    return field(1, p.topic.encode()) + b"".join(peers) + backoff


# From bytes.


class _Reader:
    """Reads one RPC and counts what is in it."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries = 0

    def rpc(self, data: bytes) -> Rpc:
        subscriptions: list[Subscription] = []
        publish: list[Publication] = []
        control: list[bytes] = []
        for number, value in protobuf.fields(data):
            if number == 2:
                publish.append(self._publication(protobuf.as_bytes(value, "Message")))
            elif number == 3:
                control.append(protobuf.as_bytes(value, "ControlMessage"))
            elif number == 1:
                subscriptions.append(self._subscription(protobuf.as_bytes(value, "SubOpts")))
        if not control:
            return Rpc(tuple(subscriptions), tuple(publish))
        # A field that came twice is merged, as protobuf has it: its parts in order.
        return self._control(tuple(subscriptions), tuple(publish), b"".join(control))

    def _control(
        self, subscriptions: tuple[Subscription, ...], publish: tuple[Publication, ...], data: bytes
    ) -> Rpc:
        ihave: list[IHave] = []
        iwant: list[IWant] = []
        graft: list[Graft] = []
        prune: list[Prune] = []
        idontwant: list[IDontWant] = []
        extensions = False
        for number, value in protobuf.fields(data):
            if not 1 <= number <= 6:
                continue
            body = protobuf.as_bytes(value, "a control message")
            self._count()
            if number == 1:
                ihave.append(IHave(*self._topic_and_ids(body)))
            elif number == 2:
                iwant.append(IWant(self._only_ids(body)))
            elif number == 3:
                graft.append(Graft(self._topic_and_ids(body)[0]))
            elif number == 4:
                prune.append(self._prune(body))
            elif number == 5:
                idontwant.append(IDontWant(self._only_ids(body)))
            else:
                extensions = True
        return Rpc(
            subscriptions, publish, tuple(ihave), tuple(iwant), tuple(graft), tuple(prune),
            tuple(idontwant), extensions,
        )  # fmt: skip

    def _count(self) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise RemoteProtocolError(f"RPC with more than {MAX_ENTRIES} entries")

    def _subscription(self, data: bytes) -> Subscription:
        self._count()
        subscribe, topic = False, ""
        for number, value in protobuf.fields(data):
            if number == 1:
                subscribe = protobuf.as_int(value, "SubOpts.subscribe") != 0
            elif number == 2:
                topic = _topic(value)
        return Subscription(subscribe, topic)

    def _publication(self, data: bytes) -> Publication:
        self._count()
        return _copy_read(data)

    def _topic_and_ids(self, data: bytes) -> tuple[str, tuple[bytes, ...]]:
        topic, ids = "", []
        for number, value in protobuf.fields(data):
            if number == 1:
                topic = _topic(value)
            elif number == 2:
                self._count()
                ids.append(protobuf.as_bytes(value, "a message id"))
        return topic, tuple(ids)

    def _only_ids(self, data: bytes) -> tuple[bytes, ...]:
        ids = []
        for number, value in protobuf.fields(data):
            if number == 1:
                self._count()
                ids.append(protobuf.as_bytes(value, "a message id"))
        return tuple(ids)

    def _prune(self, data: bytes) -> Prune:
        topic, backoff = "", 0
        peers: list[PeerInfo] = []
        for number, value in protobuf.fields(data):
            if number == 1:
                topic = _topic(value)
            elif number == 2:
                self._count()
                if len(peers) < MAX_PEERS:
                    peers.append(_peer_info(protobuf.as_bytes(value, "PeerInfo")))
            elif number == 3:
                backoff = protobuf.as_int(value, "ControlPrune.backoff")
        return Prune(topic, tuple(peers), backoff)


def _read_publication(data: bytes) -> Publication:
    author = body = seqno = signature = key = b""
    topic = ""
    for number, value in protobuf.fields(data):
        if number == 4:
            topic = _topic(value)
            continue
        if not 1 <= number <= 6:
            continue
        content = protobuf.as_bytes(value, "a field of Message")
        if number == 1:
            author = content
        elif number == 2:
            body = content
        elif number == 3:
            seqno = content
        elif number == 5:
            signature = content
        else:
            key = content
    return Publication(topic, body, PeerId(author), seqno, signature, key)


_copy_read = Copies(_read_publication)


def _peer_info(data: bytes) -> PeerInfo:
    peer = record = b""
    for number, value in protobuf.fields(data):
        if number == 1:
            peer = protobuf.as_bytes(value, "PeerInfo.peerID")
        elif number == 2:
            record = protobuf.as_bytes(value, "PeerInfo.signedPeerRecord")
    return PeerInfo(peer, record)


def _topic(value: protobuf.Value) -> str:
    data = protobuf.as_bytes(value, "a topic")
    if len(data) > MAX_TOPIC:
        raise RemoteProtocolError(f"topic of {len(data)} bytes; limit {MAX_TOPIC}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError(f"topic {data[:32]!r} is not UTF-8") from None


# In pieces that every peer accepts.


def split(rpc: Rpc) -> Iterator[Rpc]:
    """Subscriptions and control of any amount as RPCs of at most SEND_CONTROL bytes each, in order.

    Nothing is published in it; messages travel one to an RPC, each encoded once for all its peers.
    extensions goes into the first (1.3). What cannot be cut (a PRUNE with its peers) goes whole.
    """
    assert not rpc.publish
    if _is_small(rpc) or _cost(rpc) <= SEND_CONTROL:
        yield rpc
        return
    extensions = rpc.extensions
    piece: dict[str, list[Subscription | IHave | IWant | Graft | Prune | IDontWant]] = {}
    room = SEND_CONTROL
    for name, one in _elements(rpc):
        cost = _weight(one)
        if piece and cost > room:
            yield Rpc(**{key: tuple(value) for key, value in piece.items()}, extensions=extensions)  # type: ignore[arg-type]
            piece, room, extensions = {}, SEND_CONTROL, False
        piece.setdefault(name, []).append(one)
        room -= cost
    if piece or extensions:
        yield Rpc(**{key: tuple(value) for key, value in piece.items()}, extensions=extensions)  # type: ignore[arg-type]


def _elements(
    rpc: Rpc,
) -> Iterator[tuple[str, Subscription | IHave | IWant | Graft | Prune | IDontWant]]:
    """Everything of an RPC, lists of ids cut to pieces that fit."""
    for subscription in rpc.subscriptions:
        yield "subscriptions", subscription
    for graft in rpc.graft:
        yield "graft", graft
    for prune in rpc.prune:
        yield "prune", prune
    for idontwant in rpc.idontwant:
        for ids in _runs(idontwant.ids):
            yield "idontwant", IDontWant(ids)
    for iwant in rpc.iwant:
        for ids in _runs(iwant.ids):
            yield "iwant", IWant(ids)
    for ihave in rpc.ihave:
        for ids in _runs(ihave.ids):
            yield "ihave", IHave(ihave.topic, ids)


def _runs(ids: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    """Runs of ids of at most SEND_CONTROL bytes, a topic's name and tags set aside."""
    run: list[bytes] = []
    room = SEND_CONTROL - MAX_TOPIC - 16
    for one in ids:
        if run and len(one) + 3 > room:
            yield tuple(run)
            run, room = [], SEND_CONTROL - MAX_TOPIC - 16
        run.append(one)
        room -= len(one) + 3
    if run:
        yield tuple(run)


def _weight(one: Subscription | IHave | IWant | Graft | Prune | IDontWant) -> int:
    """Bytes on the wire, tags rounded up. A character is at most 4 bytes."""
    if isinstance(one, IHave):
        return 12 + 4 * len(one.topic) + sum(map(len, one.ids)) + 3 * len(one.ids)
    if isinstance(one, IWant | IDontWant):
        return 8 + sum(map(len, one.ids)) + 3 * len(one.ids)
    if isinstance(one, Prune):
        return 24 + 4 * len(one.topic) + sum(len(i.peer) + len(i.record) + 10 for i in one.peers)
    return 12 + 4 * len(one.topic)


def _is_small(rpc: Rpc) -> bool:
    """Far below the limit, without counting: a few topics, or a few ids."""
    return (
        len(rpc.subscriptions) + len(rpc.graft) <= 4
        and len(rpc.prune) <= 1
        and not any(prune.peers for prune in rpc.prune)
        and len(rpc.ihave) + len(rpc.iwant) + len(rpc.idontwant) <= 1
        and all(len(one.ids) <= 32 for one in rpc.ihave)
        and all(len(one.ids) <= 32 for one in rpc.iwant + rpc.idontwant)
    )


def _cost(rpc: Rpc) -> int:
    return sum(_weight(one) for _, one in _elements(rpc))
