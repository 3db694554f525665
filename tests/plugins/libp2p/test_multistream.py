"""multistream-select 1.0 as in libp2p/specs connections/README.md; libp2p-wire.md 2.1."""

from __future__ import annotations

import pytest
from grove_libp2p.framing import Unframer, frame
from grove_libp2p.multistream import HEADER, MAX_PROPOSALS, NA, Initiator, Responder, message

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from tests.fuzz import survives

PING = "/ipfs/ping/1.0.0"


def only(*protocols: str) -> Responder:
    return Responder(protocols.__contains__)


def test_header_and_na_are_the_bytes_of_the_specification() -> None:
    assert HEADER.hex() == "13" + b"/multistream/1.0.0".hex() + "0a"
    assert NA.hex() == "036e610a"


def test_initiator_sends_header_and_proposal_at_once() -> None:
    assert Initiator([PING]).opening == HEADER + b"\x11/ipfs/ping/1.0.0\n"


def test_both_agree_in_one_round_trip() -> None:
    initiator, responder = Initiator([PING]), only(PING)
    answer = responder.opening + responder.receive(initiator.opening)
    assert initiator.receive(answer) == b""
    assert initiator.agreed == responder.agreed == PING


def test_bytes_behind_the_agreement_are_kept_for_the_protocol() -> None:  # pitfall 4
    initiator, responder = Initiator([PING]), only(PING)
    answer = responder.receive(initiator.opening + b"lazy data")
    assert responder.remainder == b"lazy data"
    initiator.receive(HEADER + answer + b"reply")
    assert initiator.remainder == b"reply"


@pytest.mark.parametrize("cut", range(1, 42))
def test_any_cut_of_the_bytes_gives_the_same_agreement(cut: int) -> None:
    initiator, responder = Initiator(["/no", PING]), only(PING)
    out = responder.opening + responder.receive(initiator.opening[:cut])
    out += responder.receive(initiator.opening[cut:])
    again = initiator.receive(out[:cut]) + initiator.receive(out[cut:])
    answer = responder.receive(again)
    if len(answer) > cut:
        initiator.receive(answer[:cut])
        initiator.receive(answer[cut:])
    else:
        initiator.receive(answer)
    assert initiator.agreed == responder.agreed == PING
    assert initiator.remainder == responder.remainder == b""


def test_one_byte_at_a_time() -> None:
    initiator, responder = Initiator([PING]), only(PING)
    for byte in initiator.opening:
        answer = responder.receive(bytes([byte]))
    for byte in HEADER + answer:
        initiator.receive(bytes([byte]))
    assert initiator.agreed == PING


def test_initiator_tries_the_next_after_na_and_gives_up_after_the_last() -> None:
    initiator = Initiator(["/a", "/b"])
    assert initiator.receive(HEADER + NA) == message("/b")
    assert not initiator.refused
    assert initiator.receive(NA) == b""
    assert initiator.refused
    assert initiator.agreed is None


def test_ls_and_unreadable_ids_are_answered_na() -> None:
    responder = only(PING)
    assert responder.receive(HEADER + frame(b"ls\n") + frame(b"\xff\xfe\n") + frame(b"\n")) == NA * 3
    assert responder.agreed is None


def test_a_first_message_that_is_not_the_header_aborts() -> None:
    with pytest.raises(RemoteProtocolError, match=r"is not /multistream/1\.0\.0"):
        only(PING).receive(message(PING))
    with pytest.raises(RemoteProtocolError, match=r"is not /multistream/1\.0\.0"):
        Initiator([PING]).receive(frame(b"HTTP/1.1 400\n"))


def test_an_answer_that_was_not_proposed_aborts() -> None:
    with pytest.raises(RemoteProtocolError, match="/other"):
        Initiator([PING]).receive(HEADER + message("/other"))


def test_messages_over_1024_bytes_are_refused_before_they_are_there() -> None:
    responder = only(PING)
    responder.receive(HEADER)
    with pytest.raises(RemoteProtocolError, match="1025 bytes; limit 1024"):
        responder.receive(b"\x81\x08")
    with pytest.raises(RemoteProtocolError, match="more than 1024"):
        only(PING).receive(b"\xff\xff\xff\xff\x01")
    longest = frame(b"/" * 1023 + b"\n")
    assert only(PING).receive(HEADER + longest) == NA


def test_proposals_are_bounded() -> None:
    responder = only(PING)
    responder.receive(HEADER + message("/x") * MAX_PROPOSALS)
    with pytest.raises(RemoteProtocolError, match="more than 64"):
        responder.receive(message(PING))


def test_ids_we_must_not_send_are_our_own_mistake() -> None:
    for bad in ("", "/a\n/b", "/" + "x" * 300):
        with pytest.raises(LocalProtocolError):
            message(bad)
    with pytest.raises(LocalProtocolError):
        Initiator([])


def test_unframer_reads_nothing_beyond_the_message_asked_for() -> None:  # pitfall 3
    unframer = Unframer(10, "test message")
    unframer.feed(frame(b"one") + b"rest")
    assert unframer.next() == b"one"
    assert unframer.rest() == b"rest"


@pytest.mark.claim("libp2p.decoders-survive")
def test_mutated_input_raises_only_the_declared_error() -> None:
    def initiator(data: bytes) -> None:
        Initiator(["/a", PING]).receive(data)

    def responder(data: bytes) -> None:
        only(PING).receive(data)

    survives(responder, 1, [Initiator([PING]).opening, HEADER + message("/no") + message(PING) + b"data"])
    survives(initiator, 2, [HEADER + NA + message(PING), HEADER + message("/a") + b"data"])
