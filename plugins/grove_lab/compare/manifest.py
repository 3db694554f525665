"""The manifest: everything it takes to run a comparison again, and what came out.

`manifest.json` beside a report holds the study (scenario text, settings, sizes, seeds, sides with the
text of profile files), how results were judged, each side's protocols with every parameter, the
software (Grove, plugins, Python, each with a digest of its source), the machine, and for every run its
digest, its metrics and its checkpoints. Digests name histories: equal ones prove an identical replay.

Its study and the same software give the same digests anywhere; `difference` says where they part: the
first slice of virtual time, and the first metric. With the prints that lie beside it (`runs`), `traces`
names the very event.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import msgspec

from grove_core.cli.show import toml, toml_key
from grove_core.errors import GroveError
from grove_core.registry import GROUP
from grove_core.specs import Part
from grove_lab.compare import statistics as st
from grove_lab.compare.judging import SUCCESS_MARGIN
from grove_lab.compare.pairing import Outcome, Study, assembled
from grove_lab.streams import ALGORITHM

FORMAT = 1
"""Of this file; another major is refused."""

NAME = "manifest.json"

LICENCE = "CC0-1.0"
"""Of the figures in a manifest: whoever ran them may do as they like, and so may everybody else."""


class BadManifest(GroveError):
    """A file that is no manifest, or one this Grove cannot read."""

    exit_code = 2


class Software(msgspec.Struct, kw_only=True):
    """What ran. plugins: name -> distribution, version and source digest of each that took part."""

    grove: str
    commit: str
    python: str
    platform: str
    plugins: dict[str, dict[str, str]]
    distributions: dict[str, str]


class Settings(msgspec.Struct, kw_only=True):
    """How results were judged."""

    primary: str
    margin: float
    success_margin: float = SUCCESS_MARGIN
    level: float = st.LEVEL
    strict: float = st.STRICT
    least_seeds: int = st.LEAST
    exact_flips_to: int = st.EXACT
    flips: int = st.FLIPS
    resamples: int = st.RESAMPLES
    bca_from: int = st.BCA_LEAST
    correction: str = "Holm over the secondary metrics of a table; the primary uncorrected"
    interval: str = "paired Student t, 95 %, on ln(b/a) or b - a"


class Ran(msgspec.Struct, kw_only=True):
    """One run, as a replay is held against it."""

    side: str
    nodes: int
    seed: int
    digest: str
    events: int
    metrics: dict[str, float]
    violation: str = ""
    checkpoints: list[tuple[float, int, str]] = []


class Manifest(msgspec.Struct, kw_only=True):
    """The file. label: "virtual", or "live" for runs of real processes, which nothing can reproduce."""

    format: int = FORMAT
    kind: str = "grove.comparison"
    label: str = "virtual"
    study: Study
    scenario_digests: dict[str, str]  # nodes -> the scenario in force
    streams: str = ALGORITHM
    settings: Settings
    profiles: dict[str, str]  # side -> its protocols, as TOML
    software: Software
    cpu: str
    command: str
    started: str  # UTC, ISO 8601
    ended: str
    stopped: str = ""
    """Why fewer seeds than were asked for ran (`stopping`); `study` has those that did."""
    licence: str = LICENCE
    runs: list[Ran]


def made(
    study: Study,
    outcomes: Sequence[Outcome],
    *,
    primary: str,
    margin: float,
    command: str,
    started: str,
    ended: str,
    label: str = "virtual",
    stopped: str = "",
) -> Manifest:
    """The manifest of what just ran."""
    largest = max(study.sizes)
    sides = {side.label: assembled(study, largest, side) for side in study.sides}
    return Manifest(
        label=label,
        study=study,
        scenario_digests={str(nodes): study.world(nodes).digest for nodes in study.sizes},
        settings=Settings(primary=primary, margin=margin),
        profiles={name: "\n".join(_profiles(parts)) for name, parts in sides.items()},
        software=software([part for parts in sides.values() for one in parts.values() for part in one]),
        cpu=_processor(),
        command=command,
        started=started,
        ended=ended,
        stopped=stopped,
        runs=[
            Ran(
                side=one.side,
                nodes=one.nodes,
                seed=one.seed,
                digest=one.digest,
                events=one.events,
                metrics=one.metrics,
                violation=one.violation,
                checkpoints=one.checkpoints,
            )
            for one in outcomes
        ],
    )


def write(manifest: Manifest, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")


def read(path: Path) -> Manifest:
    """A manifest from its file, or from the folder it lies in. Raises BadManifest."""
    path = path / NAME if path.is_dir() else path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadManifest(f"{path}: cannot be read: {error.strerror}") from None
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadManifest(f"{path}: is not a manifest of grove compare: {error}") from None
    if found.format != FORMAT:
        raise BadManifest(f"{path}: format {found.format}; this Grove reads format {FORMAT}")
    return found


def short_digest(manifest: Manifest) -> str:
    """12 hex digits that name study and results, whenever and wherever they were made."""
    said = [manifest.study, [(one.side, one.nodes, one.seed, one.digest) for one in manifest.runs]]
    return hashlib.blake2b(msgspec.json.encode(said), digest_size=6).hexdigest()


# What ran.


def software(parts: Sequence[Part] = ()) -> Software:
    """The software that parts come from, with a digest of each package's source.

    A digest of the source holds for editable installations too, where no wheel exists.
    """
    found = {}
    owners = _owners()
    for name in dict.fromkeys(("grove_core", "grove_lab", *_packages(parts))):
        owner, its_version = owners.get(name, ("", ""))
        found[name] = {"distribution": owner, "version": its_version, "source": _source_digest(name)}
    return Software(
        grove=owners["grove_core"][1],
        commit=_commit(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        plugins=found,
        distributions=_distributions(),
    )


def _packages(parts: Sequence[Part]) -> list[str]:
    """The top-level packages of parts and their guests, in order."""
    found: dict[str, None] = {}
    todo = list(parts)
    while todo:
        part = todo.pop(0)
        found[type(part.config).__module__.partition(".")[0]] = None
        todo += part.hosted.values()
    return list(found)


@lru_cache
def _distributions() -> dict[str, str]:
    """Everything that is installed: what a machine imports may matter."""
    found = {one.metadata["Name"]: one.version for one in distributions() if one.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


@lru_cache
def _owners() -> dict[str, tuple[str, str]]:
    """Package -> (distribution, version) of everything that offers a plugin."""
    found: dict[str, tuple[str, str]] = {}
    for one in distributions():
        for entry in one.entry_points:
            if entry.group == GROUP:
                package = entry.value.partition(":")[0].partition(".")[0]
                found[package] = (one.metadata["Name"], one.version)
    found["grove_core"] = found["grove_lab"]
    return found


@lru_cache
def _source_digest(package: str) -> str:
    """32 hex digits over names and bytes of a package's Python and TOML files."""
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    if file is None:
        return ""
    root = Path(file).parent
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(one for one in root.rglob("*") if one.suffix in (".py", ".toml")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()


@lru_cache
def _commit() -> str:
    """Of the repository that Grove runs from, with + if it was changed since; "" outside of one."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return ""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if changed else "")


def _processor() -> str:
    """The processor's name, where the system tells it, and how many there are."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} × {name}"


def _profiles(parts: Mapping[str, Sequence[Part]]) -> list[str]:
    """What the nodes of each class run, every parameter said, as TOML that a scenario could hold."""
    lines: list[str] = []
    for name, chosen in parts.items():
        head = f"classes.{toml_key(name)}." if name else ""
        lines.append(f"[{head}roles]")
        lines += [f"{part.spec.role} = {toml(part.spec.name)}" for part in chosen]
        for part in chosen:
            lines += ["", f"[{head}plugins.{toml_key(part.spec.name)}]"]
            fields: dict[str, Any] = msgspec.to_builtins(part.config)
            lines += [f"{toml_key(key)} = {toml(value)}" for key, value in fields.items()]
        lines.append("")
    return lines


# Is it still so?


def changed_software(then: Software, now: Software) -> list[str]:
    """What differs in the software, in words; digests may differ for no other reason than these."""
    found = []
    for what in ("grove", "python", "platform"):
        a, b = getattr(then, what), getattr(now, what)
        if a != b:
            found.append(f"{what} was {a}, is {b}")
    for name, was in then.plugins.items():
        present = now.plugins.get(name)
        if present is None:
            found.append(f"{name} {was['version']} took part and is not here")
        elif present["source"] != was["source"]:
            found.append(f"the source of {name} ({was['distribution']} {was['version']}) has changed")
    return found


def difference(then: Ran, now: Outcome) -> str | None:
    """Where a run and its repetition part, in words; None if they are identical."""
    who = f"{then.side}, {then.nodes:,} nodes, seed {then.seed}"
    before = (0.0, 0, "")
    for was, present in zip(then.checkpoints, now.checkpoints, strict=False):
        if tuple(was) != tuple(present):
            first = _first_metric(then, now)
            return (
                f"{who}: the same until t = {before[0]:.6f} s ({before[1]:,} events), then different "
                f"before t = {min(was[0], present[0]):.6f} s ({was[1]:,} events then, {present[1]:,} now)"
                + (f"; {first}" if first else "")
            )
        before = was
    if then.violation != now.violation:
        return f"{who}: then {then.violation or 'no violation'}; now {now.violation or 'no violation'}"
    if then.digest != now.digest:
        return f"{who}: the same until t = {before[0]:.6f} s, then different before the end"
    first = _first_metric(then, now)
    return f"{who}: {first}" if first else None


def _first_metric(then: Ran, now: Outcome) -> str:
    for name in dict.fromkeys((*then.metrics, *now.metrics)):
        a, b = then.metrics.get(name), now.metrics.get(name)
        if a != b:
            return f"the first metric that differs is {name}: {a} then, {b} now"
    return ""


def part_of(study: Study, seeds: Sequence[int] = (), sizes: Sequence[int] = ()) -> Study:
    """A study with only some of its worlds; all if none are named. Raises GroveError for others."""
    for what, asked, there in (("seed", seeds, study.seeds), ("size", sizes, study.sizes)):
        strange = [one for one in asked if one not in there]
        if strange:
            known = ", ".join(map(str, there))
            raise GroveError(f"the manifest has no run with {what} {strange[0]} (there are: {known})")
    return msgspec.structs.replace(
        study, seeds=tuple(seeds) or study.seeds, sizes=tuple(sizes) or study.sizes
    )
