"""Whether signatures hold: rule 7 of the contract, on the way in.

In the loop, not in a thread. Measured with cryptography 50 on 2 cores (95 µs a signature, 10 µs of
other work a message): in the loop 107 to 110 µs a message; with one thread 148 at batches of 4, 114 at
32, 111 at 256. `verify` does release the GIL, but after each signature the thread must get it back,
and a busy loop gives it up every 5 ms only: 190 checks a second instead of 10,600. How much of a turn
of the loop goes into signatures is limited by `turns.py`.
"""

from __future__ import annotations

import hashlib

from grove_core.identity import PublicKey
from grove_core.specs import Proof

REMEMBERED = 4096
"""Proofs that are remembered as good: gossip brings the same signature from several peers."""


class Checks:
    """Checks proofs, and remembers those that held."""

    def __init__(self) -> None:
        self._good: dict[bytes, None] = {}  # oldest first

    def holds(self, proof: Proof) -> bool:
        """Whether a signature is its signer's."""
        name = hashlib.sha256(proof.data).digest() + proof.signature + proof.signer
        if name in self._good:
            return True
        key = PublicKey.of(proof.signer, proof.key)
        if key is None or not key.verify(proof.data, proof.signature):
            return False
        self._good[name] = None
        if len(self._good) > REMEMBERED:
            del self._good[next(iter(self._good))]
        return True
