"""Mutated inputs for decoders: what noise on the line, and a bored stranger, would send.

    for data in mutations(seed=7, corpus=[good_message, another], count=rounds()):
        with contextlib.suppress(RemoteProtocolError):
            decode(data)

Each input is a member of the corpus with one to four changes, or now and then plain random bytes.
The same seed gives the same inputs. GROVE_FUZZ sets how many; `GROVE_FUZZ=100000` is the long run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from random import Random

from grove_core.errors import RemoteProtocolError

INTERESTING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
LONGEST = 4096
"""No input grows beyond this many bytes, unless the corpus is longer."""


def rounds(default: int = 2_000) -> int:
    """How many mutations this run makes: GROVE_FUZZ, or the default."""
    return int(os.environ.get("GROVE_FUZZ", default))


def mutations(seed: int, corpus: Sequence[bytes], count: int) -> Iterator[bytes]:
    """`count` byte strings near the corpus; every one as it is comes first."""
    assert corpus
    rng = Random(seed)
    limit = max(LONGEST, *map(len, corpus))
    for index in range(count):
        if index < len(corpus):
            yield corpus[index]
        elif rng.random() < 0.02:
            yield rng.randbytes(rng.randrange(200))
        else:
            data = bytearray(rng.choice(corpus))
            for _ in range(rng.randint(1, 4)):
                _mutate(rng, data, corpus)
            yield bytes(data[:limit])


def text_mutations(seed: int, corpus: Sequence[str], count: int) -> Iterator[str]:
    """The same for decoders of text: mutated UTF-8, read back with stray bytes as Latin-1."""
    for data in mutations(seed, [text.encode() for text in corpus], count):
        try:
            yield data.decode()
        except UnicodeDecodeError:
            yield data.decode("latin-1")


def survives(decode: Callable[[bytes], object], seed: int, corpus: Sequence[bytes]) -> int:
    """Feed a decoder `rounds()` mutations; how many it refused with RemoteProtocolError.

    Any other exception fails the test with the seed, the round and the input that caused it. Every
    member of the corpus must be accepted as it is.
    """
    return _survives(decode, mutations(seed, corpus, rounds()), seed, len(corpus))


def text_survives(decode: Callable[[str], object], seed: int, corpus: Sequence[str]) -> int:
    """`survives` for decoders of text."""
    return _survives(decode, text_mutations(seed, corpus, rounds()), seed, len(corpus))


def _survives(decode: Callable[..., object], inputs: Iterator[object], seed: int, good: int) -> int:
    refused = 0
    for index, data in enumerate(inputs):
        try:
            decode(data)
        except RemoteProtocolError:
            assert index >= good, f"corpus entry {index} was refused: {data!r}"
            refused += 1
        except BaseException as error:
            raise AssertionError(
                f"seed {seed}, round {index}: {type(error).__name__}: {error}\n input: {data!r}"
            ) from error
    return refused


def _mutate(rng: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """One change in place."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(8):
        case 0 if data:  # flip a bit
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 1 if data:  # a byte that decoders care about
            data[at % len(data)] = rng.choice(INTERESTING)
        case 2:  # insert
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        case 3:  # delete
            del data[at : at + rng.randint(1, 8)]
        case 4:  # cut short
            del data[at:]
        case 5:  # repeat a stretch
            data[at:at] = data[at : at + rng.randint(1, 32)] * rng.randint(1, 8)
        case 6:  # graft a piece of another message
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            data[at:] = other[start:]
        case _:  # overwrite
            data[at : at + 2] = rng.randbytes(2)
