"""Proofs that held are not computed again, are not taken for others, and do not fill the memory."""

from __future__ import annotations

from grove_core.drive.proofs import REMEMBERED, REMEMBERED_BYTES, Checks
from grove_core.identity import Identity
from grove_core.specs import Proof

AUTHOR = Identity.from_seed(bytes(32))


def proof(data: bytes) -> Proof:
    return Proof(AUTHOR.peer, data, AUTHOR.sign(data))


def test_a_proof_that_held_is_known_and_its_signature_does_not_hold_for_anything_else() -> None:
    checks, good = Checks(), proof(b"said")
    assert not checks.knows(good)
    assert checks.holds(good)
    assert checks.knows(good)
    for other in (
        Proof(AUTHOR.peer, b"not said", good.signature),
        Proof(Identity.from_seed(b"x" * 32).peer, b"said", good.signature),
    ):
        assert not checks.knows(other)
        assert not checks.holds(other)
    assert checks.holds(good)


def test_what_is_remembered_is_bounded_in_number_and_bytes() -> None:
    checks = Checks()
    size = REMEMBERED_BYTES // 4
    large = [proof(bytes([n]) * size) for n in range(6)]
    assert all(map(checks.holds, large))
    assert [checks.knows(one) for one in large] == [False, False, True, True, True, True]
    assert checks.holds(proof(bytes(2 * REMEMBERED_BYTES)))
    assert (len(checks._good), checks._bytes) == (0, 0)
    for n in range(REMEMBERED + 1):  # as if they had been checked
        checks._remember(Proof(AUTHOR.peer, b"small", n.to_bytes(4, "big")))
    assert (len(checks._good), checks._bytes) == (REMEMBERED, 5 * REMEMBERED)
