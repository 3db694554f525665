"""What other programs read of a comparison: one line per run, the distributions, the digests.

    runs.csv      one row per run: side, nodes, seed, digest, every metric by its name
    samples/      a CSV per side and size: seconds at each of 201 exact quantiles, a column per seed
    events.blake2b  a digest per run, as checksum tools write them; equal lines, equal histories
    events.prints   two bytes per event of every run, for `grove reproduce` to name the first that differs

Plain text with a header, floats in full: pandas and R read it, and two files can be compared by diff.
The prints alone are not for people: msgpack, the run's name as in events.blake2b -> its bytes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from grove_lab.compare.judging import SENSES
from grove_lab.compare.pairing import GRID, Outcome

PRINTS = "events.prints"
HEAD = ("side", "nodes", "seed", "digest", "events", "deliveries", "violation", "cpu_s", "wall_s")


def write(outcomes: Sequence[Outcome], folder: Path) -> None:
    """All of them, into a folder that exists."""
    _runs(outcomes, folder / "runs.csv")
    _samples(outcomes, folder / "samples")
    lines = [f"{one.digest}  {name_of(one)}\n" for one in outcomes]
    (folder / "events.blake2b").write_text("".join(lines), encoding="utf-8")
    prints = {name_of(one): one.prints for one in outcomes if one.prints}
    if prints:
        (folder / PRINTS).write_bytes(msgspec.msgpack.encode(prints))


def read_prints(manifest: Path) -> dict[str, bytes]:
    """The prints beside a manifest (or in its folder), by the run's name; none if they are not there."""
    path = (manifest if manifest.is_dir() else manifest.parent) / PRINTS
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=dict[str, bytes])
    except (OSError, msgspec.DecodeError):
        return {}


def name_of(one: Outcome) -> str:
    """A run's name in files: its side, size and seed."""
    return f"{slug(one.side)}/{one.nodes}/{one.seed}"


def _runs(outcomes: Sequence[Outcome], path: Path) -> None:
    seen = {name for one in outcomes for name in one.metrics}
    names = [name for name in (*SENSES, *sorted(seen - SENSES.keys())) if name in seen]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow((*HEAD, *names))
        for one in outcomes:
            told = [getattr(one, name) for name in HEAD[:-2]]
            seconds = [f"{one.cpu_s:.3f}", f"{one.wall_s:.3f}"]
            rows.writerow((*told, *seconds, *(one.metrics.get(name, "") for name in names)))


def _samples(outcomes: Sequence[Outcome], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    groups: dict[tuple[str, int], list[Outcome]] = {}
    for one in outcomes:
        if one.quantiles:
            groups.setdefault((one.side, one.nodes), []).append(one)
    for (side, nodes), runs in groups.items():
        with (folder / f"{slug(side)}-{nodes}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("quantile", *(f"seed_{one.seed}" for one in runs)))
            for i in range(GRID + 1):
                rows.writerow((i / GRID, *(one.quantiles[i] for one in runs)))


def slug(label: str) -> str:
    """A side's label as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")[:80] or "side"
