"""What was worked out lately about messages, so that a copy costs less than the message did.

A mesh brings each message about five times. `of_each` remembers a function's results by publication,
`Copies` gives equal bytes the same object, whose hashes are known. Both are pure but for their speed.

Invariant: each holds at most ENTRIES small messages, of SMALL bytes, and LARGE_BYTES of larger ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final, Generic, Protocol, TypeVar

SMALL: Final = 4096
"""Bytes of a message up to which only the number of entries is limited: 1 MiB in all."""
ENTRIES: Final = 256
LARGE_BYTES: Final = 4 << 20
"""Bytes of larger messages: 64 of what a peer of default settings sends at most, 4 of 1 MiB."""
ENDS: Final = 64, 128
"""Bytes of a large message's head and tail by which it is looked for: author and seqno are in the one,
topic and signature in the other. Whose ends are equal to another's takes its place, no more."""


class HasData(Protocol):
    """A publication, as far as it matters here."""

    @property
    def data(self) -> bytes: ...
    def __hash__(self) -> int: ...


K = TypeVar("K")
V = TypeVar("V")
P = TypeVar("P", bound=HasData)


class Recent(Generic[K, V]):
    """Entries with their weight in bytes; the oldest make room for what is put last."""

    __slots__ = ("_entries", "_limit", "weight")

    def __init__(self, limit: int = LARGE_BYTES) -> None:
        self._limit = limit
        self._entries: dict[K, tuple[V, int]] = {}
        self.weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        found = self._entries.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Remember; nothing if it weighs more than the limit by itself."""
        if weight > self._limit:
            return
        entries = self._entries
        before = entries.pop(key, None)
        if before is not None:
            self.weight -= before[1]
        entries[key] = value, weight
        self.weight += weight
        while self.weight > self._limit:
            self.weight -= entries.pop(next(iter(entries)))[1]


def of_each(function: Callable[[P], bytes]) -> Callable[[P], bytes]:
    """A pure function of a publication, worked out once for all its copies."""
    small = lru_cache(maxsize=ENTRIES)(function)
    large: Recent[P, bytes] = Recent()

    @wraps(function)
    def remembered(publication: P) -> bytes:
        size = len(publication.data)
        if size <= SMALL:
            return small(publication)
        found = large.get(publication)
        if found is None:
            found = function(publication)
            large.put(publication, found, size + len(found))
        return found

    return remembered


class Copies(Generic[V]):
    """A pure function of bytes that gives the same object for equal bytes.

    A large message is found by its ends and compared: 1 µs for 32 KiB, where a dict would hash for 8.
    """

    __slots__ = ("_large", "_read", "_small")

    def __init__(self, read: Callable[[bytes], V]) -> None:
        self._read = read
        self._small = lru_cache(maxsize=ENTRIES)(read)
        self._large: Recent[tuple[int, bytes, bytes], tuple[bytes, V]] = Recent()

    def __call__(self, data: bytes) -> V:
        size = len(data)
        if size <= SMALL:
            return self._small(data)
        head, tail = ENDS
        ends = size, data[:head], data[-tail:]
        found = self._large.get(ends)
        if found is not None and found[0] == data:
            return found[1]
        value = self._read(data)
        self._large.put(ends, (data, value), 2 * size)  # the bytes, and what was read from them
        return value
