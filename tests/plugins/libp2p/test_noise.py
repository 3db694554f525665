"""Noise XX as libp2p uses it: noiseprotocol.org rev. 34, libp2p/specs noise/README.md."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from grove_libp2p.noise import MAX_PLAINTEXT, XX, Credentials, Handshake, Session, WrongPeer
from grove_libp2p.upgrade import Upgrade
from grove_libp2p.yamux import PROTOCOL as YAMUX

from grove_core import protobuf
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity
from tests.fuzz import mutations, rounds

ALICE, BOB = Identity.from_seed(b"\1" * 32), Identity.from_seed(b"\2" * 32)


def key(number: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([number]) * 32)


CREDENTIALS = {ALICE: Credentials(ALICE, key(11)), BOB: Credentials(BOB, key(12))}


def side(who: Identity, **options: object) -> Handshake:
    options.setdefault("muxers", [YAMUX])
    initiator = who is ALICE
    return Handshake(
        initiator=initiator,
        credentials=CREDENTIALS[who],
        ephemeral=key(21 if initiator else 22),
        **options,  # type: ignore[arg-type]
    )


def shake(alice: Handshake, bob: Handshake) -> None:
    bob.receive(alice.receive(bob.receive(alice.start())))


# --- the vector of cacophony (haskell-cryptography/cacophony, vectors/cacophony.txt) ----------------

PROLOGUE = bytes.fromhex("4a6f686e2047616c74")
INIT_STATIC = "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"
INIT_EPHEMERAL = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"
RESP_STATIC = "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"
RESP_EPHEMERAL = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"
HANDSHAKE_HASH = "c8e5f64e846193be2a834104c2a009868d6c9f3bd3c186299888b488b2f1f58e"
HANDSHAKE = (
    (
        b"Ludwig von Mises",
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e204d69736573",
    ),
    (
        b"Murray Rothbard",
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884381cbad1f276e038c48378ffce2b65285e0"
        "8d6b68aaa3629a5a8639392490e5b9bd5269c2f1e4f488ed8831161f19b7815528f8982ffe09be9b5c412f8a0db50f8814"
        "c7194e83f23dbd8d162c9326ad",
    ),
    (
        b"F. A. Hayek",
        "c7195ffacac1307ff99046f219750fc47693e23c3cb08b89c2af808b444850a80ae475b9df0f169ae80a89be0865b57f58"
        "c9fea0d4ec82a286427402f113e4b6ae769a1d95941d49b25030",
    ),
)
TRANSPORT = (
    (b"Carl Menger", "96763ed773f8e47bb3712f0e29b3060ffc956ffc146cee53d5e1df"),
    (b"Jean-Baptiste Say", "3e40f15f6f3a46ae446b253bf8b1d9ffb6ed9b174d272328ff91a7e2e5c79c07f5"),
    (
        bytes.fromhex("457567656e2042f6686d20766f6e2042617765726b"),
        "eb3f3515110702e047a6c9da4478b6ead94873c11c0f2d710ddb3f09fce024b3a58502ae3f",
    ),
)


def private(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))


@pytest.mark.claim("libp2p.noise-vectors")
def test_published_xx_vector_byte_for_byte() -> None:
    init = XX(True, private(INIT_STATIC), private(INIT_EPHEMERAL), PROLOGUE)
    resp = XX(False, private(RESP_STATIC), private(RESP_EPHEMERAL), PROLOGUE)
    for index, (payload, ciphertext) in enumerate(HANDSHAKE):
        writer, reader = (init, resp) if index % 2 == 0 else (resp, init)
        assert writer.write(payload).hex() == ciphertext
        assert reader.read(bytes.fromhex(ciphertext)) == payload
    assert init.hash.hex() == resp.hash.hex() == HANDSHAKE_HASH
    assert init.split() == resp.split()
    first, second = init.split()
    initiator, responder = Session(first, second), Session(second, first)
    for index, (payload, ciphertext) in enumerate(TRANSPORT):  # the vector goes on in turn
        writer, reader = (responder, initiator) if index % 2 == 0 else (initiator, responder)
        sealed = writer.seal(payload)
        assert sealed.hex() == f"{len(payload) + 16:04x}" + ciphertext
        assert reader.open(sealed) == ([payload], len(sealed))


@pytest.mark.claim("libp2p.noise-vectors")
def test_identity_signature_vector() -> None:  # libp2p-wire.md section 6
    identity = Identity.from_seed(bytes(32))
    signed = b"noise-libp2p-static-key:" + bytes(32)
    assert identity.sign(signed).hex() == (
        "6423ba3c3816228fe43c7982de77f9c912a3349aa7ca3b0bb99822ada79bbf09"
        "957395aba9cfcbc2b3b7937e89693a3e88481fd9222cf7dd63ea5698c7d9e200"
    )
    static = key(11)
    credentials = Credentials(identity, static)
    message = b"noise-libp2p-static-key:" + static.public_key().public_bytes_raw()
    assert identity.public.verify(message, credentials.identity_sig)


# --- libp2p's use of it ----------------------------------------------------------------------------


def test_both_sides_learn_who_the_other_is() -> None:
    alice, bob = side(ALICE), side(BOB)
    shake(alice, bob)
    assert alice.remote == BOB.public
    assert bob.remote == ALICE.public
    assert alice.session is not None
    assert bob.session is not None
    assert bob.session.open(alice.session.seal(b"to bob"))[0] == [b"to bob"]
    assert alice.session.open(bob.session.seal(b"to alice"))[0] == [b"to alice"]


def test_message_1_is_a_bare_ephemeral_key() -> None:
    assert side(ALICE).start() == b"\x00\x20" + key(21).public_key().public_bytes_raw()
    assert side(BOB).start() == b""


@pytest.mark.parametrize("cut", [1, 2, 3, 33, 34, 35, 100])
def test_any_cut_of_the_bytes_gives_the_same_session(cut: int) -> None:
    alice, bob = side(ALICE), side(BOB)
    first = alice.start()
    second = bob.receive(first[:cut]) + bob.receive(first[cut:])
    third = alice.receive(second[:cut]) + alice.receive(second[cut:])
    bob.receive(third[:cut])
    bob.receive(third[cut:])
    assert bob.remote == ALICE.public


def test_bytes_behind_the_handshake_are_kept_for_the_session() -> None:
    alice, bob = side(ALICE), side(BOB)
    third = alice.receive(bob.receive(alice.start()))
    assert alice.session is not None
    assert bob.receive(third + alice.session.seal(b"early")) == b""
    assert bob.session is not None
    assert bob.session.open(bob.remainder)[0] == [b"early"]


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        (["/yamux/1.0.0"], ["/yamux/1.0.0"], "/yamux/1.0.0"),
        (["/a", "/b"], ["/b", "/a"], "/a"),  # the initiator's order decides
        (["/a"], ["/b"], None),  # fall back to multistream-select
        (["/a"], [], None),  # rust-libp2p lists nothing
    ],
)
def test_muxer_is_the_initiators_first_that_both_list(
    ours: list[str], theirs: list[str], chosen: str | None
) -> None:
    alice, bob = side(ALICE, muxers=ours), side(BOB, muxers=theirs)
    shake(alice, bob)
    assert alice.muxer == bob.muxer == chosen


@pytest.mark.claim("libp2p.wrong-peer-refused")
def test_the_wrong_peer_gets_no_further_byte() -> None:
    alice, bob = side(ALICE, expected=ALICE.peer), side(BOB)
    with pytest.raises(WrongPeer, match=r"expected peer 12D3.* found 12D3"):
        alice.receive(bob.receive(alice.start()))
    assert alice.session is None


def payload_of(fields: list[tuple[int, int | bytes]]) -> bytes:
    return b"".join(protobuf.field(number, value) for number, value in fields)


def answer_with(payload: bytes, static: X25519PrivateKey | None = None) -> Handshake:
    """Alice, after a responder answered with a payload of our making."""
    alice = side(ALICE)
    responder = XX(False, static or key(12), key(22))
    responder.read(alice.start()[2:])
    message = responder.write(payload)
    alice.receive(struct.pack(">H", len(message)) + message)
    return alice


def test_unknown_fields_and_the_legacy_data_field_are_ignored() -> None:
    bob = CREDENTIALS[BOB]
    extensions = payload_of([(1, b"a certhash"), (2, YAMUX.encode()), (1025, b"experimental")])
    fields: list[tuple[int, int | bytes]] = [(3, b"legacy"), (1, bob.identity_key), (99, 7)]
    alice = answer_with(payload_of([*fields, (2, bob.identity_sig), (4, extensions)]))
    assert alice.remote == BOB.public
    assert alice.muxer == YAMUX


def test_bad_payloads_are_refused() -> None:
    bob, alice = CREDENTIALS[BOB], CREDENTIALS[ALICE]
    with pytest.raises(RemoteProtocolError, match="without identity key"):
        answer_with(payload_of([(2, bob.identity_sig)]))
    with pytest.raises(RemoteProtocolError, match="without identity key or signature"):
        answer_with(payload_of([(1, bob.identity_key)]))
    with pytest.raises(RemoteProtocolError, match="is not the identity's"):
        answer_with(payload_of([(1, bob.identity_key), (2, alice.identity_sig)]))
    with pytest.raises(RemoteProtocolError, match="is not the identity's"):  # a replayed payload
        answer_with(bob.payload([YAMUX]), static=key(13))
    with pytest.raises(RemoteProtocolError, match="number"):
        answer_with(payload_of([(1, 7), (2, bob.identity_sig)]))


def test_a_key_of_low_order_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="low order"):
        side(BOB).receive(b"\x00\x20" + bytes(32))


def test_handshake_messages_over_16_kib_are_refused_at_their_length() -> None:
    with pytest.raises(RemoteProtocolError, match="16385 bytes; limit 16384"):
        side(BOB).receive(b"\x40\x01")


def test_short_messages_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="of 31 bytes"):
        side(BOB).receive(b"\x00\x1f" + b"x" * 31)
    alice = side(ALICE)
    alice.start()
    with pytest.raises(RemoteProtocolError, match="has no s"):
        alice.receive(b"\x00\x21" + b"x" * 33)


# --- the session -----------------------------------------------------------------------------------


def pair() -> tuple[Session, Session]:
    return Session(b"a" * 32, b"b" * 32), Session(b"b" * 32, b"a" * 32)


def test_a_message_carries_at_most_65519_bytes() -> None:
    sender, receiver = pair()
    sealed = sender.seal(b"x" * MAX_PLAINTEXT)
    assert len(sealed) == 2 + 65535
    assert receiver.open(memoryview(sealed)) == ([b"x" * MAX_PLAINTEXT], len(sealed))
    with pytest.raises(LocalProtocolError, match="65520"):
        sender.seal(b"x" * (MAX_PLAINTEXT + 1))


def test_whole_messages_are_opened_and_the_rest_is_left() -> None:
    sender, receiver = pair()
    data = b"".join(sender.seal(b"%d" % number) for number in range(5))
    plaintexts, used = receiver.open(data[:-1])
    assert plaintexts == [b"0", b"1", b"2", b"3"]
    assert receiver.open(data[used:])[0] == [b"4"]
    assert receiver.open(b"\x00") == ([], 0)


def test_small_pieces_travel_together_and_large_ones_alone() -> None:
    sender, receiver = pair()
    sizes = [12, 17, 65519, 100, 40_000, 20_000, 30_000, 30_000, 1]
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    plaintexts, _ = receiver.open(
        b"".join(sender.seal_all([*pieces[:2], memoryview(pieces[2]), *pieces[3:]]))
    )
    assert [len(plaintext) for plaintext in plaintexts] == [29, 65519, 100, 40_000, 50_000, 30_001]
    assert b"".join(plaintexts) == b"".join(pieces)
    assert sender.seal_all([]) == []


def test_replayed_reordered_cut_and_forged_messages_are_refused() -> None:
    sender, receiver = pair()
    first, second = sender.seal(b"first"), sender.seal(b"second")
    with pytest.raises(RemoteProtocolError, match="message 0 does not decrypt"):
        receiver.open(second)
    receiver.open(first)
    with pytest.raises(RemoteProtocolError):
        receiver.open(first)
    with pytest.raises(RemoteProtocolError):
        pair()[1].open(b"\x00\x00")
    with pytest.raises(RemoteProtocolError):
        pair()[1].open(b"\x00\x05hello")


# --- the upgrade -----------------------------------------------------------------------------------


def upgrade(who: Identity, **options: object) -> Upgrade:
    initiator = who is ALICE
    return Upgrade(
        initiator=initiator,
        credentials=CREDENTIALS[who],
        ephemeral=key(31 if initiator else 32),
        muxers=[YAMUX],
        **options,  # type: ignore[arg-type]
    )


def run(alice: Upgrade, bob: Upgrade, step: int = 1 << 20) -> int:
    """Pass bytes to and fro in pieces; how many times alice sent."""
    to_bob, to_alice, turns = alice.start(), bob.start(), 1
    while to_bob or to_alice:
        for at in range(0, len(to_bob), step):
            if not bob.done:
                to_alice += bob.receive(to_bob[at : at + step])
        to_bob = b""
        pieces, to_alice = to_alice, b""
        for at in range(0, len(pieces), step):
            if not alice.done:
                to_bob += alice.receive(pieces[at : at + step])
        turns += bool(to_bob)
    return turns


def test_an_inlined_upgrade_takes_one_round_trip() -> None:
    alice, bob = upgrade(ALICE, expected=BOB.peer), upgrade(BOB)
    assert run(alice, bob) == 2
    assert alice.muxer == bob.muxer == YAMUX
    assert alice.remote == BOB.public


@pytest.mark.parametrize("step", [1, 2, 7, 100])
@pytest.mark.parametrize("listing", [(True, True), (False, True), (True, False)])
@pytest.mark.claim("libp2p.muxer-fallback")
def test_without_a_common_list_the_muxer_is_agreed_by_multistream(
    listing: tuple[bool, bool], step: int
) -> None:
    alice, bob = upgrade(ALICE, inline=listing[0]), upgrade(BOB, inline=listing[1])
    run(alice, bob, step)
    assert alice.done
    assert bob.done
    assert alice.muxer == bob.muxer == YAMUX


def test_bytes_behind_an_upgrade_are_kept_sealed_or_open() -> None:
    alice, bob = upgrade(ALICE, inline=False), upgrade(BOB)
    out = bob.start() + bob.receive(alice.start())
    third = alice.receive(out)
    assert alice.session is not None
    answer = bob.receive(third + alice.session.seal(b"frames"))
    assert bob.done
    assert bob.session is not None
    assert bob.early == b""
    assert bob.session.open(bob.remainder)[0] == [b"frames"]
    alice.receive(answer)
    assert alice.done


def test_a_remote_without_noise_is_told_apart() -> None:
    alice = upgrade(ALICE)
    with pytest.raises(RemoteProtocolError, match="does not speak /noise"):
        alice.receive(b"\x13/multistream/1.0.0\n\x03na\n")


@pytest.mark.claim("libp2p.decoders-survive")
def test_mutated_handshakes_raise_only_the_declared_error() -> None:
    for inline in (True, False):
        alice, bob = upgrade(ALICE, inline=inline), upgrade(BOB, inline=inline)
        opening = alice.start()
        answer = bob.start() + bob.receive(opening)
        third = alice.receive(answer)
        count = rounds() // 4  # four lists: together what was asked for
        for index, data in enumerate(mutations(3, [opening + third, opening], count)):
            fresh = upgrade(BOB, inline=inline)
            try:
                fresh.receive(data)
            except RemoteProtocolError:
                assert index > 1, "the corpus itself was refused"
        for index, data in enumerate(mutations(4, [answer], count)):
            fresh = upgrade(ALICE, inline=inline)
            fresh.start()
            try:
                fresh.receive(data)
            except RemoteProtocolError:
                assert index, "the corpus itself was refused"


@pytest.mark.claim("libp2p.decoders-survive")
def test_mutated_payloads_inside_a_handshake_raise_only_the_declared_error() -> None:
    for index, data in enumerate(mutations(5, [CREDENTIALS[BOB].payload([YAMUX])], rounds())):
        try:
            answer_with(data)
        except RemoteProtocolError:
            assert index


@pytest.mark.claim("libp2p.decoders-survive")
def test_mutated_transport_messages_raise_only_the_declared_error() -> None:
    sender, _ = pair()
    good = b"".join(sender.seal(b"x" * size) for size in (0, 1, 100))
    for index, data in enumerate(mutations(6, [good, good[:-1]], rounds())):
        try:
            pair()[1].open(data)
        except RemoteProtocolError:
            assert index > 1
