"""The verbs of the lab: `grove sim run`, `grove sim list`, `grove sim shrink` and `grove replay`.

They exit 0 when everything held and 1 when an invariant was violated; then a recording is written
and the command that replays it is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from grove_core.cli.options import json_option

if TYPE_CHECKING:
    from grove_lab.run import Progress, Run
    from grove_lab.scenario import Scenario

F = TypeVar("F", bound=Callable[..., Any])


def world_options(function: F) -> F:
    """--nodes, --seed, --set and --profile."""
    for option in (
        click.option("--profile", "choice", default="", metavar="NAME|ROLE=PLUGIN",
                     help="Other protocols: a profile, a .toml file, or broadcast=flood:seen_for=60."),
        click.option("--set", "sets", multiple=True, metavar="KEY=VALUE",
                     help="Any value of the scenario: network.loss=0.01, plugins.hyparview.arwl=6."),
        click.option("--seed", type=int, help="Instead of the scenario's first."),
        click.option("--nodes", type=click.IntRange(1), help="Instead of the scenario's number."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group(no_args_is_help=True)
def sim() -> None:
    """Worlds in virtual time: run them, break them, shrink what breaks."""


@sim.command("list")
@json_option
def list_scenarios(as_json: bool) -> None:
    """The scenarios that ship with the lab."""
    from grove_core.cli.show import print_json, print_table
    from grove_lab.scenario import load, stock

    found = [load(path) for path in stock().values()]
    if as_json:
        rows = [{"name": one.name, "nodes": one.nodes, "description": one.description} for one in found]
        print_json("grove.scenarios", scenarios=rows)
    else:
        cells = [(one.name, f"{one.nodes:,}", one.description) for one in found]
        print_table(("scenario", "nodes", "what happens"), cells)


@sim.command("run")
@click.argument("scenario")
@world_options
@json_option
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a recording, failure or not, for grove replay.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Draw pictures (SVG) and write run.json there.")  # fmt: skip
def run_scenario(
    scenario: str, nodes: int | None, seed: int | None, sets: tuple[str, ...], choice: str,
    as_json: bool, trace: Path | None, out: Path | None,
) -> int:  # fmt: skip
    """Run SCENARIO: one that ships (grove sim list), or a TOML file."""
    from grove_core.cli.show import print_json
    from grove_lab.choice import parts_for
    from grove_lab.replay import command, record, write
    from grove_lab.run import outcome, run

    chosen = _load(scenario, nodes, sets)
    parts = parts_for(choice, chosen)
    with _progress(f"{chosen.name}, {chosen.nodes:,} nodes") as progress:
        one = run(chosen, seed=chosen.seeds[0] if seed is None else seed, parts=parts, progress=progress)
    written: list[Path] = []
    if out is not None:
        written = _write_out(one, out)
    kept = trace
    if kept is None and one.violation is not None:
        kept = (out or Path()) / f"{chosen.name or 'scenario'}-{one.seed}.replay.json"
    if kept is not None:
        write(record(chosen, choice, one), kept)
    if as_json:
        pictures = [str(path) for path in written]
        told = outcome(one) | {"recording": str(kept) if kept else None, "pictures": pictures}
        print_json("grove.sim.run", **told)
    else:
        _show(one)
        if written:
            click.echo(f"pictures  {out}/ ({', '.join(path.name for path in written)})")
    if one.violation is None:
        return 0
    assert kept is not None
    click.echo(f"{one.violation}\nseed {one.seed}; again: {command(kept)}", err=True)
    return 1


@sim.command()
@click.argument("what")
@world_options
@click.option("--budget", type=click.IntRange(1), default=150, show_default=True, help="Runs at most.")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE",
              help="Where the smaller recording goes; beside the given one if not said.")  # fmt: skip
@json_option
def shrink(
    what: str, nodes: int | None, seed: int | None, sets: tuple[str, ...], choice: str, budget: int,
    trace: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Make a world that fails smaller while it still fails. WHAT: a recording, or a scenario."""
    from grove_core.cli.show import print_json
    from grove_lab import shrink as shrinking
    from grove_lab.choice import parts_for
    from grove_lab.replay import command, read, record, write

    path = Path(what)
    if path.suffix == ".json":
        recording = read(path)
        scenario, choice = recording.scenario, choice or recording.choice
        seed = recording.seed if seed is None else seed
        small = path.with_name(
            f"{path.name.removesuffix('.json').removesuffix('.replay')}.small.replay.json"
        )
    else:
        scenario = _load(what, nodes, sets)
        seed = scenario.seeds[0] if seed is None else seed
        small = Path(f"{scenario.name}-{seed}.small.replay.json")
    small = trace or small
    with _counting(budget) as told:
        found = shrinking.shrink(
            scenario, seed=seed, parts=lambda one: parts_for(choice, one), budget=budget, told=told
        )
    if found.run.violation is None:
        click.echo(
            f"nothing to shrink: seed {seed} violates nothing in {scenario.nodes:,} nodes", err=True
        )
        return 2
    write(record(found.scenario, choice, found.run), small)
    before, after = _size(scenario), _size(found.scenario)
    if as_json:
        print_json(
            "grove.sim.shrink", before=before, after=after, seed=found.seed, tried=found.tried,
            violation=found.run.violation, recording=str(small),
        )  # fmt: skip
    else:
        told_before, told_after = (
            ", ".join(f"{v:g} {k}" for k, v in one.items()) for one in (before, after)
        )
        click.echo(f"from   {told_before}\nto     {told_after}   ({found.tried} runs)")
        click.echo(f"fails  {found.run.violation}\nagain  {command(small)}")
    return 0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--before",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    help="Seconds of virtual time to tell.",
)
@click.option("--lines", type=click.IntRange(1), default=60, show_default=True, help="Lines at most.")
@click.option("--all", "everybody", is_flag=True, help="Of all nodes, not just those that were named.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Also draw these seconds: time downwards, an arrow per message (SVG).")  # fmt: skip
@json_option
def replay(
    file: Path, before: float, lines: int, everybody: bool, picture: Path | None, as_json: bool
) -> int:
    """Run a recording again, to the moment it ended, and tell what happened around it.

    Exits 0 if the same happened again, 1 if something else did.
    """
    from grove_core.cli.show import print_json
    from grove_lab.flights import Flights
    from grove_lab.replay import columns, moment_of, read
    from grove_lab.replay import picture as drawn
    from grove_lab.replay import replay as again

    recording = read(file)
    flights = Flights(moment_of(recording) - before)
    with _progress("replaying") as progress:
        one, tale = again(
            recording, before=before, lines=lines, everybody=everybody, progress=progress,
            watch=flights.watch if picture else None,
        )  # fmt: skip
    if picture:
        picture.write_text(drawn(recording, flights), encoding="utf-8")
    same = one.digest == recording.digest or not recording.digest
    told = list(tale.lines)
    if as_json:
        print_json(
            "grove.replay.run", same=same, violation=one.violation, digest=one.digest, lines=told,
            picture=str(picture) if picture else None,
        )  # fmt: skip
    else:
        small = recording.scenario.nodes <= 6
        named = list(range(recording.scenario.nodes)) if small else sorted({line.node for line in told})
        click.echo("\n".join(columns(told, [node for node in named if node >= 0])))
        click.echo(str(one.violation) if one.violation else "nothing was violated")
        if not same:
            click.echo(
                f"NOT the recorded history: digest {one.digest}, recorded {recording.digest}; "
                "the code has changed since, or the recording is of other plugins",
                err=True,
            )
    return 0 if same else 1


def _load(name: str, nodes: int | None, sets: tuple[str, ...]) -> Scenario:
    from grove_lab.scenario import load

    return load(name, [*sets, *([f"nodes={nodes}"] if nodes is not None else [])])


def _size(scenario: Scenario) -> dict[str, float]:
    """How big a scenario is, in words and numbers."""
    messages = sum(
        one.count or round(one.rate * ((one.stop or scenario.duration) - one.start))
        for one in scenario.workloads.values()
    )
    return {
        "nodes": scenario.nodes,
        "faults": len(scenario.faults),
        "messages": messages,
        "seconds": round(scenario.ends, 1),
    }


def _write_out(one: Run, folder: Path) -> list[Path]:
    import msgspec

    from grove_lab.pictures import draw

    written = draw(one, folder)
    path = folder / "run.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(one, prints=b"")))
    return [*written, path]


def _show(one: Run) -> None:
    """The figures, as a table."""
    from grove_core.cli.show import print_table
    from grove_lab.metrics import UNITS
    from grove_lab.scenario import LIMITS

    rows = []
    for name, value in one.metrics.items():
        unit = UNITS.get(name, ("", ""))[0]
        rows.append((name.removesuffix("_ms"), _figure(value), unit))
    rate = one.events / one.cpu_s if one.cpu_s else 0.0
    click.echo(
        f"{one.scenario}  seed {one.seed}  {one.nodes:,} nodes  {one.virtual_s:,.0f} s virtual  "
        f"{one.events:,} events  {one.cpu_s:.1f} s CPU ({rate:,.0f} events/s)"
    )
    for at, what in one.faults[:20]:
        click.echo(f"  {at:9.3f} s  {what}")
    print_table(("metric", "value", "unit"), rows)
    click.echo(f"digest    {one.digest}")
    click.echo(LIMITS)


def _figure(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


@contextmanager
def _progress(what: str) -> Iterator[Progress | None]:
    """A bar on standard error, if a person looks at it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=1.0, told="")

        def told(done: float, total: float, events: int) -> None:
            said = f"{done:,.0f} of {total:,.0f} s, {events:,} events"
            bar.update(task, total=total, completed=done, told=said)

        yield told


@contextmanager
def _counting(budget: int) -> Iterator[Callable[[int, Scenario, bool], None] | None]:
    """Runs of a search, on standard error."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("shrinking") as status:

        def told(tried: int, scenario: Scenario, failed: bool) -> None:
            said = "fails too" if failed else "holds"
            status.update(f"run {tried} of at most {budget}: {scenario.nodes:,} nodes, {said}")

        yield told
