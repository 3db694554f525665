"""Whether signatures hold: rule 7 of the contract, on the way in.

In the loop, not in a thread. Measured with cryptography 50 on 2 cores (95 µs a signature, 10 µs of
other work a message): in the loop 107 to 110 µs a message; with one thread 148 at batches of 4, 114 at
32, 111 at 256. `verify` does release the GIL, but after each signature the thread must get it back,
and a busy loop gives it up every 5 ms only: 190 checks a second instead of 10,600. How much of a turn
of the loop goes into signatures is limited by `turns.py`.
"""

from __future__ import annotations

from grove_core.identity import PublicKey
from grove_core.machine import PeerId
from grove_core.specs import Proof

REMEMBERED = 4096
"""Proofs that are remembered as good: gossip brings the same signature from several peers."""

REMEMBERED_BYTES = 2 * 1024 * 1024
"""Bytes of what they sign. It is kept whole: to compare 32 KiB costs 1 µs, to hash it 20 to 40."""


class Checks:
    """Checks proofs, and remembers those that held."""

    def __init__(self) -> None:
        self._good: dict[tuple[bytes, PeerId], bytes] = {}  # (signature, signer) -> data, oldest first
        self._bytes = 0

    def holds(self, proof: Proof) -> bool:
        """Whether a signature is its signer's."""
        if self.knows(proof):
            return True
        key = PublicKey.of(proof.signer, proof.key)
        if key is None or not key.verify(proof.data, proof.signature):
            return False
        self._remember(proof)
        return True

    def knows(self, proof: Proof) -> bool:
        """Whether it held when it was checked, lately."""
        return self._good.get((proof.signature, proof.signer)) == proof.data

    def _remember(self, proof: Proof) -> None:
        good, name = self._good, (proof.signature, proof.signer)
        self._bytes += len(proof.data) - len(good.pop(name, b""))
        good[name] = proof.data
        while self._bytes > REMEMBERED_BYTES or len(good) > REMEMBERED:
            self._bytes -= len(good.pop(next(iter(good))))
