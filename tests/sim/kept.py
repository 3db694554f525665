"""What one seed of an experiment gave is kept, so that a long run goes on where it was interrupted.

GROVE_KEEP names the folder; `make claims` sets it, nothing is kept without it. A result is taken only
if not one source file has changed since: the folder in it is named after all of them.

    python -m tests.sim.kept test_hyparview 3      measure one seed and keep it (with GROVE_FULL=1)
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar, get_type_hints

import msgspec

ROOT = Path(__file__).parents[2]
SOURCES = ("grove_core", "plugins", "contrib", "tests/sim")

Found = TypeVar("Found", bound=msgspec.Struct)


def over(seeds: Sequence[int], measured: Callable[[int], Found]) -> list[Found]:
    """measured(seed) of each seed, kept or new."""
    return [_of(seed, measured) for seed in seeds]


def _of(seed: int, measured: Callable[[int], Found]) -> Found:
    folder = os.environ.get("GROVE_KEEP")
    if not folder:
        return measured(seed)
    size = "full" if os.environ.get("GROVE_FULL") else "small"
    path = Path(folder) / _sources() / f"{measured.__module__.rpartition('.')[2]}-{size}-{seed}.json"
    if path.exists():
        kind: type[Found] = get_type_hints(measured)["return"]
        return msgspec.json.decode(path.read_bytes(), type=kind)
    found = measured(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(found))
    part.replace(path)
    return found


@cache
def _sources() -> str:
    """A name for the state of every source file that a result may depend on."""
    digest = hashlib.sha256(sys.version.encode())
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    experiment = importlib.import_module(f"tests.sim.{sys.argv[1]}")
    over([int(seed) for seed in sys.argv[2:]], experiment.measured)
