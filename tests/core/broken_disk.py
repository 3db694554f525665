"""What a failing disk does to the folder of a node that is down: one fault, drawn at random."""

from __future__ import annotations

from pathlib import Path
from random import Random


def damage(folder: Path, rng: Random) -> str:
    """One fault of a disk; says which."""
    names = ["records.sqlite-wal"] * 6 + ["records.sqlite", "promised"]
    file = folder / rng.choice(names)
    data = bytearray(file.read_bytes()) if file.exists() else bytearray()
    if not data:
        return "nothing"
    # A log that is overwritten in place ends in frames of its past: spoil what counts.
    at = rng.randrange(len(data)) if rng.random() < 0.7 else rng.randrange(min(len(data), 20_000))
    match rng.choice(("torn", "flipped", "garbage", "gone", "none")):
        case "torn":
            del data[at:]
            what = f"{file.name} torn at {at}"
        case "flipped":
            data[at] ^= 1 << rng.randrange(8)
            what = f"{file.name} has another bit at {at}"
        case "garbage":
            size = min(rng.choice((1, 512, 4096)), len(data) - at)
            data[at : at + size] = rng.randbytes(size)
            what = f"{file.name} has {size} bytes of garbage at {at}"
        case "gone":
            file.unlink()
            return f"{file.name} is gone"
        case _:
            return "nothing"
    file.write_bytes(data)
    return what
