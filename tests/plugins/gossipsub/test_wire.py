"""The bytes of an RPC: what other stacks sign, what they refuse, and what we refuse of them."""

from __future__ import annotations

from typing import Any

import pytest
from grove_gossipsub.messages import (
    CODEC,
    MAX_ENTRIES,
    MAX_RPC,
    SEND_CONTROL,
    Graft,
    IDontWant,
    IHave,
    IWant,
    PeerInfo,
    Prune,
    Publication,
    Rpc,
    Subscription,
    content_id,
    forged,
    libp2p_id,
    proofs,
    signed_bytes,
    split,
)

from grove_core import protobuf
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity, PublicKey
from grove_core.testing import peer
from tests.fuzz import survives

ZERO = Identity.from_seed(bytes(32))
VECTOR = bytes.fromhex(
    "0a260024080112203b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    "120568656c6c6f1a080000000000000001220174"
)
SIGNATURE = bytes.fromhex(
    "43c25641076b1672d1e77d2607175d062d96fec226bd3ca5ecb0b306fccee3b89e5e4feb982240bb"
    "f151aa6f4c74352cdbad152f7e57969868882a7d393a8502"
)
SAID = Publication("t", b"hello", ZERO.peer, (1).to_bytes(8, "big"), SIGNATURE)

EVERYTHING = Rpc(
    subscriptions=(Subscription(True, "a"), Subscription(False, "ü")),
    publish=(SAID, Publication("t", b"")),
    ihave=(IHave("t", (b"\xff\x00", b"two")), IHave("none", ())),
    iwant=(IWant((b"one",)),),
    graft=(Graft("a"),),
    prune=(Prune("a", (PeerInfo(peer(1), b"record"), PeerInfo(peer(2))), 60), Prune("b")),
    idontwant=(IDontWant((b"three",)),),
    extensions=True,
)


@pytest.mark.claim("gossipsub.signature-vector")
def test_a_message_is_signed_and_encoded_as_other_stacks_do() -> None:
    """Seed of 32 zeros, data "hello", seqno 1, topic "t": accepted by py-libp2p's validator."""
    assert signed_bytes(SAID) == b"libp2p-pubsub:" + VECTOR
    assert ZERO.sign(signed_bytes(SAID)) == SIGNATURE
    whole = VECTOR + b"\x2a\x40" + SIGNATURE
    assert CODEC.encode(Rpc(publish=(SAID,))) == b"\x12" + bytes((len(whole),)) + whole


def test_every_part_of_an_rpc_survives_the_codec() -> None:
    assert CODEC.decode(CODEC.encode(EVERYTHING)) == EVERYTHING
    assert CODEC.decode(b"") == Rpc()


def test_field_numbers_are_those_of_the_specification() -> None:
    field = protobuf.field
    ids = field(1, b"i")
    control = (
        field(1, field(1, b"t") + field(2, b"i"))
        + field(2, ids)
        + field(3, field(1, b"t"))
        + field(4, field(1, b"t") + field(2, field(1, b"p") + field(2, b"r")) + field(3, 60))
        + field(5, ids)
        + field(6, b"")
    )
    data = field(1, field(1, 1) + field(2, b"t")) + field(3, control)
    rpc = Rpc(
        (Subscription(True, "t"),),
        (),
        (IHave("t", (b"i",)),),
        (IWant((b"i",)),),
        (Graft("t"),),
        (Prune("t", (PeerInfo(b"p", b"r"),), 60),),
        (IDontWant((b"i",)),),
        True,
    )
    assert CODEC.encode(rpc) == data
    assert CODEC.decode(data) == rpc


def test_drafts_and_later_fields_are_skipped_and_a_second_control_is_merged() -> None:
    field = protobuf.field
    first = field(3, field(3, field(1, b"a")) + field(7, b"ineed of a draft"))
    second = field(3, field(3, field(1, b"b")))
    data = field(10, b"partial") + field(6492434, b"") + first + second
    assert CODEC.decode(data) == Rpc(graft=(Graft("a"), Graft("b")))


def test_a_message_whose_seqno_and_author_are_missing_is_read_and_judged_later() -> None:
    assert CODEC.decode(CODEC.encode(Rpc(publish=(Publication("t", b"x"),)))).publish[0].author == b""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bytes(MAX_RPC + 1), "limit"),
        (protobuf.field(2, 7), "not bytes"),
        (protobuf.field(1, protobuf.field(2, b"\xff")), "UTF-8"),
        (protobuf.field(1, protobuf.field(2, b"t" * 513)), "limit 512"),
        (protobuf.field(3, protobuf.field(2, protobuf.field(1, b"") * (MAX_ENTRIES + 1))), "entries"),
        (b"\x12\x05\x00", "claims"),
    ],
)
def test_what_is_no_rpc_is_refused_in_words(data: bytes, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        CODEC.decode(data)


def test_mutated_rpcs_raise_nothing_but_the_remote_error() -> None:
    def decode(data: bytes) -> None:
        tuple(proofs(CODEC.decode(data)))

    assert survives(decode, 11, [CODEC.encode(EVERYTHING), CODEC.encode(Rpc(publish=(SAID,)))]) > 0


def test_more_than_an_rpc_may_hold_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="limit"):
        CODEC.encode(Rpc(publish=(Publication("t", bytes(MAX_RPC)),)))


# Ids and proofs.


def test_the_content_id_is_the_hash_of_what_was_signed() -> None:
    other = Publication("t", b"hello", ZERO.peer, (2).to_bytes(8, "big"), SIGNATURE)
    assert len(content_id(SAID)) == 32
    assert content_id(SAID) != content_id(other)
    assert content_id(Publication("t", b"x")) == content_id(Publication("t", b"x"))


def test_the_libp2p_id_is_author_and_seqno_or_a_hash_of_the_data() -> None:
    assert libp2p_id(SAID) == ZERO.peer + b"\0\0\0\0\0\0\0\x01"
    assert len(libp2p_id(SAID)) == 46
    assert len(libp2p_id(Publication("t", b"x"))) == 32


def test_each_signed_message_is_one_proof_and_forgeries_find_their_place() -> None:
    rpc = Rpc(publish=(Publication("t", b"unsigned"), SAID, SAID))
    made = list(proofs(rpc))
    assert [proof.signer for proof in made] == [ZERO.peer, ZERO.peer]
    key = PublicKey.of(made[0].signer)
    assert key is not None
    assert key.verify(made[0].data, made[0].signature)
    assert forged(rpc, (1,)) == {2: None}


# Size budgets.


@pytest.mark.claim("gossipsub.size-budgets")
@pytest.mark.parametrize(
    "rpc",
    [
        Rpc(ihave=(IHave("t", tuple(n.to_bytes(32, "big") for n in range(5000))),)),
        Rpc(iwant=(IWant(tuple(n.to_bytes(46, "big") for n in range(5000))),)),
        Rpc(subscriptions=tuple(Subscription(True, f"topic {n}") for n in range(3000)), extensions=True),
        Rpc(
            graft=tuple(Graft(f"topic {n}") for n in range(500)),
            prune=tuple(Prune(f"topic {n}", (PeerInfo(peer(n), bytes(600)),) * 16, 60) for n in range(9)),
        ),
    ],
)
def test_control_of_any_amount_leaves_in_pieces_that_rust_accepts(rpc: Rpc) -> None:
    pieces = list(split(rpc))
    assert len(pieces) > 1
    assert all(len(CODEC.encode(piece)) <= SEND_CONTROL for piece in pieces)
    assert [piece.extensions for piece in pieces] == [rpc.extensions] + [False] * (len(pieces) - 1)
    for name in ("subscriptions", "graft", "prune"):
        assert sum((getattr(piece, name) for piece in pieces), ()) == getattr(rpc, name)
    for name in ("ihave", "iwant"):
        assert _ids(pieces, name) == _ids([rpc], name)


def test_a_small_rpc_is_left_alone() -> None:
    rpc = Rpc(graft=(Graft("t"),), extensions=True)
    assert list(split(rpc)) == [rpc]


def _ids(rpcs: list[Rpc], name: str) -> list[Any]:
    return [mid for rpc in rpcs for one in getattr(rpc, name) for mid in one.ids]
