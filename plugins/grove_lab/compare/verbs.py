"""The verbs `grove compare` and `grove reproduce`.

compare exits 0 when every run went to its end, 1 when one broke an invariant. reproduce exits 0 for
"identical", 1 for anything else. Results go to standard output, progress to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grove_core.cli.options import json_option

if TYPE_CHECKING:
    from grove_lab.compare.judging import Table
    from grove_lab.compare.manifest import Manifest
    from grove_lab.compare.pairing import Executor, Outcome, Study
    from grove_lab.scenario import Scenario

Tell = Callable[[float, int, int], None]

DEFAULT_SCENARIO = "village-1k"
PIPE = 120  # columns where there is no terminal
EVERY = 10.0  # s between two lines of progress where nobody watches a bar


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """``1000``, ``100,300,1000``."""
    if not value:
        return ()
    try:
        found = tuple(int(part.replace("_", "")) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected a number, or several with commas") from None
    if min(found) < 1:
        raise click.BadParameter(f"{min(found)}: expected at least 1")
    return tuple(sorted(dict.fromkeys(found)))


def _seeds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """``20`` for 1 to 20, ``5..9``, ``3,7,11,``."""
    if not value:
        return ()
    try:
        if ".." in value:
            first, _, last = value.partition("..")
            return tuple(range(int(first), int(last) + 1))
        if "," in value:
            return tuple(int(part) for part in value.split(",") if part.strip())
        return tuple(range(1, int(value) + 1))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected 20, 5..9 or 3,7,11") from None


def _jobs(ctx: click.Context, param: click.Parameter, value: str) -> int:
    from grove_lab.compare.pairing import processors

    if value == "auto":
        return processors()
    if not value.isdigit() or not 1 <= int(value) <= 1024:
        raise click.BadParameter(f"{value!r}: expected auto or 1 to 1024")
    return int(value)


def _budget(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    from grove_lab.compare.stopping import seconds

    try:
        return None if value is None else seconds(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected a time as 90s, 10m or 2h") from None


def _width(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    from grove_lab.compare.stopping import narrowness

    try:
        return None if value is None else narrowness(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected ci=2%, of above 0 and below 100 %") from None


def _traced(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    """``seed=7``."""
    found = []
    for value in values:
        name, _, number = value.partition("=")
        if name != "seed" or not number.strip().lstrip("-").isdigit():
            raise click.BadParameter(f"{value!r}: expected seed=7")
        found.append(int(number))
    return tuple(dict.fromkeys(found))


@click.command()
@click.argument("choices", nargs=-1, required=True, metavar="A B [C…]")
@click.option("--scenario", default=DEFAULT_SCENARIO, show_default=True, metavar="NAME|FILE",
              help="The world they meet in (grove sim list).")  # fmt: skip
@click.option("--nodes", callback=_numbers, metavar="N[,N…]",
              help="Instead of the scenario's; several give a scaling curve.")  # fmt: skip
@click.option("--seeds", callback=_seeds, metavar="N|A..B|A,B,…",
              help="20 is 1 to 20. Below 6 there is no verdict.")  # fmt: skip
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE",
              help="Any value of the scenario: network.loss=0.01, measure.margin=0.05.")  # fmt: skip
@click.option(
    "--baseline", metavar="CHOICE", help="Which one the others are held against; else the first."
)
@click.option("--aa", "is_aa", is_flag=True,
              help="Also the baseline against itself in other worlds: the noise.")  # fmt: skip
@click.option("--jobs", callback=_jobs, default="auto", show_default=True, help="Worker processes.")
@click.option("--cluster", metavar="ADDRESS", help="Workers of a dask.distributed scheduler instead.")
@click.option("--budget", callback=_budget, metavar="TIME",
              help="Stop after 10m, 2h …; the first seeds that are done by then count.")  # fmt: skip
@click.option("--stop-at", "width", callback=_width, metavar="ci=P%",
              help="Stop when the primary's interval is within so much either way: ci=2%.")  # fmt: skip
@click.option("--trace", "traced", multiple=True, callback=_traced, metavar="seed=N",
              help="Also keep every event and picture of this seed's runs.")  # fmt: skip
@click.option("--real", is_flag=True, help="On 5 to 20 real nodes, each a process here; takes real time.")
@click.option("--transport", type=click.Choice(["tcp", "quic"]),
              help="What the nodes of --real speak.  [default: tcp]")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Where the results go.  [default: compare/TIME; compare/latest]")  # fmt: skip
@json_option
def compare(
    choices: tuple[str, ...], scenario: str, nodes: tuple[int, ...], seeds: tuple[int, ...],
    sets: tuple[str, ...], baseline: str | None, is_aa: bool, jobs: int, cluster: str | None,
    budget: float | None, width: float | None, traced: tuple[int, ...], real: bool,
    transport: str | None, out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Which is better, and at what price: A and B in the same worlds, seed by seed.

    A choice is role=plugin[:param=value,…], several of them joined by +, a profile, or a profile's
    file: grove compare broadcast=plumtree broadcast=gossipsub:d=8 --nodes 1000 --seeds 20
    """
    from grove_lab.compare.headline import HONESTY, headline
    from grove_lab.compare.headline import regime as simulated
    from grove_lab.compare.judging import judge
    from grove_lab.compare.manifest import made
    from grove_lab.compare.pairing import plan
    from grove_lab.compare.stopping import Enough, execute_until

    if transport is not None and not real:
        raise click.UsageError("--transport is for --real: simulated links have none")
    if real and traced:
        raise click.UsageError("--trace is not for --real: no event of it can be had again")
    began, started = time.monotonic(), _now()
    ordered = _ordered(choices, baseline)
    label, honesty = "virtual", HONESTY
    regime: Callable[[Scenario, int], str] = simulated
    executor: Executor
    if real:
        from grove_lab.compare import live

        transport = transport or "tcp"
        label, honesty, regime = "live", live.HONESTY, partial(live.regime, transport=transport)
        study = live.plan(scenario, ordered, seeds=seeds, sizes=nodes, sets=sets, is_aa=is_aa)
        executor = live.over(transport)
    else:
        study = plan(scenario, ordered, seeds=seeds, sizes=nodes, sets=sets, is_aa=is_aa)
        executor = _executor(jobs, cluster)
    strange = [seed for seed in traced if seed not in study.seeds]
    if strange:
        raise click.UsageError(f"--trace seed={strange[0]}: is not among the seeds")
    measure = study.world(study.sizes[0]).measure
    enough = Enough(budget=budget, width=width)
    with _progress(study) as tell:
        study, outcomes, stopped = execute_until(
            study, executor, enough, primary=measure.primary, tell=tell
        )
    tables = judge(study, outcomes, primary=measure.primary, margin=measure.margin, label=label)
    manifest = made(
        study, outcomes, primary=measure.primary, margin=measure.margin, command=_command(),
        started=started, ended=_now(), label=label, stopped=stopped,
    )  # fmt: skip
    where = [regime(study.world(table.nodes), table.pairs) for table in tables]
    folder = _folder(out)
    _write(folder, manifest, tables, where, outcomes, honesty)
    kept = _trace(study, outcomes, traced, folder)
    for seed in traced:
        if seed not in study.seeds:
            click.echo(f"note: no trace of seed {seed}: it was stopped before that", err=True)
    failed = sum(bool(one.violation) for one in outcomes)
    took = time.monotonic() - began
    if as_json:
        from grove_core.cli.show import print_json

        print_json(
            "grove.compare", label=label, failed=failed, runs=len(outcomes), took_s=round(took, 3),
            stopped=stopped, traces=list(map(str, kept)),
            headlines=[headline(study, one, at) for one, at in zip(tables, where, strict=True)],
            tables=tables, report=str(folder / "report.html"), manifest=str(folder / "manifest.json"),
        )  # fmt: skip
    else:
        workers = "cluster" if cluster else f"{min(jobs, len(study.cells))} workers"
        if real:
            workers = "real processes"
        _show(manifest, tables, where, honesty, folder, failed=failed, took=took, workers=workers)
        for path in kept:
            click.echo(f"Trace: {path}/   Again: grove replay {path}/run.replay.json")
    return 1 if failed else 0


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--seeds", callback=_seeds, metavar="N|A..B|A,B,…", help="Only these of the manifest's.")
@click.option("--nodes", callback=_numbers, metavar="N[,N…]", help="Only these sizes of the manifest's.")
@click.option("--jobs", callback=_jobs, default="auto", show_default=True, help="Worker processes.")
@click.option("--cluster", metavar="ADDRESS", help="Workers of a dask.distributed scheduler instead.")
@json_option
def reproduce(
    manifest: Path, seeds: tuple[int, ...], nodes: tuple[int, ...], jobs: int, cluster: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Run a comparison again from its MANIFEST, and say whether the same happened."""
    from grove_core.errors import GroveError
    from grove_lab.compare import manifest as manifests
    from grove_lab.compare import runs, traces
    from grove_lab.compare.pairing import assembled, execute

    found = manifests.read(manifest)
    if found.label != "virtual":
        raise GroveError(f"{manifest} is of real processes, whose timing nobody can repeat: compare anew")
    study = manifests.part_of(found.study, seeds, nodes)
    parts = [
        part
        for size in study.sizes
        for side in study.sides
        for one in assembled(study, size, side).values()
        for part in one
    ]
    changed = manifests.changed_software(found.software, manifests.software(parts))
    with _progress(study) as tell:
        outcomes = execute(study, _executor(jobs, cluster), tell)
    then = {(one.side, one.nodes, one.seed): one for one in found.runs}
    prints = runs.read_prints(manifest)
    told: list[str] = []
    for one in outcomes:
        was = then[one.side, one.nodes, one.seed]
        said = manifests.difference(was, one)
        if said is None:
            continue
        kept = prints.get(runs.name_of(one))
        if not told and kept is not None:  # the first of them by its very event: one more run
            event = traces.first_event(study, was, kept, one)
            said = said if event is None else f"{event}\n{said}"
        told.append(said)
    if as_json:
        from grove_core.cli.show import print_json

        print_json(
            "grove.reproduce", identical=not told, runs=len(outcomes), different=told, software=changed
        )
    else:
        for line in changed:
            click.echo(f"note: {line}", err=True)
        if told:
            click.echo(f"different: {len(told)} of {len(outcomes)} runs. The first:\n{told[0]}")
            if not prints:
                click.echo(f"note: without {runs.PRINTS} the single event cannot be named", err=True)
        else:
            click.echo(f"identical: {len(outcomes)} runs, every event and every metric")
    return 1 if told else 0


def _executor(jobs: int, cluster: str | None) -> Executor:
    from grove_lab.compare.pairing import in_processes

    if cluster is not None:
        from grove_lab.compare.cluster import on_cluster

        return on_cluster(cluster)
    return in_processes(jobs)


def _ordered(choices: Sequence[str], baseline: str | None) -> list[str]:
    """The baseline first."""
    if baseline is None:
        return list(choices)
    if baseline not in choices:
        raise click.UsageError(f"--baseline {baseline}: is not among {', '.join(choices)}")
    return [baseline, *(one for one in choices if one != baseline)]


def _folder(out: Path | None) -> Path:
    """Where results go; made here, so that a folder that cannot be is told before they are lost."""
    folder = out or Path("compare") / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    if out is None:
        latest = folder.parent / "latest"
        if latest.is_symlink() or not latest.exists():
            latest.unlink(missing_ok=True)
            latest.symlink_to(folder.name, target_is_directory=True)
    return folder


def _write(
    folder: Path, manifest: Manifest, tables: Sequence[Table], where: Sequence[str],
    outcomes: Sequence[Outcome], honesty: str,
) -> None:  # fmt: skip
    from grove_lab.compare import figures, report, runs, traces
    from grove_lab.compare import manifest as manifests

    drawn = figures.draw(manifest.study, outcomes, tables)
    if manifest.label == "virtual":
        drawn |= traces.worst(manifest.study, outcomes, tables)
    for name, svg in drawn.items():
        (folder / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    runs.write(outcomes, folder)
    manifests.write(manifest, folder / manifests.NAME)
    said = (manifest, tables, where, drawn, honesty)
    (folder / "report.html").write_text(report.html(*said), encoding="utf-8")
    (folder / "report.md").write_text(report.markdown(*said), encoding="utf-8")


def _trace(study: Study, outcomes: Sequence[Outcome], seeds: Sequence[int], folder: Path) -> list[Path]:
    """What `--trace` asks for: a folder for each side and size of these seeds that ran."""
    from grove_lab.compare import traces

    found = []
    for one in outcomes:
        if one.seed in seeds:
            if sys.stderr.isatty():
                click.echo(f"tracing {one.side}, {one.nodes:,} nodes, seed {one.seed}", err=True)
            found.append(traces.keep(study, one, folder / "traces"))
    return found


def _show(
    manifest: Manifest, tables: Sequence[Table], where: Sequence[str], honesty: str, folder: Path, *,
    failed: int, took: float, workers: str,
) -> None:  # fmt: skip
    from rich.console import Console
    from rich.text import Text

    from grove_lab.compare.headline import headline
    from grove_lab.compare.manifest import short_digest
    from grove_lab.compare.table import shown

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE)
    study = manifest.study
    world = study.world(study.sizes[-1])
    sides = "  vs  ".join(side.label for side in study.sides)
    primary = manifest.settings.primary
    title = f"grove compare   {sides}   scenario {study.scenario} (primary: {primary})"
    console.print(Text(title, style="bold"))
    total = len(study.cells) * len(study.sides)
    sizes = " and ".join(f"{nodes:,}" for nodes in study.sizes)
    time_of = "real" if manifest.label == "live" else "virtual"
    console.print(
        f"{sizes} nodes · {len(study.seeds)} paired seeds · {world.duration:g} s {time_of} · "
        f"{total} runs, {failed} failed · {clock(took)} on {workers} · "
        f"manifest {short_digest(manifest)}\n"
    )
    if manifest.stopped:
        console.print(f"Stopped {manifest.stopped}.\n")
    console.print(shown(tables, where, honesty))
    for table, place in zip(tables, where, strict=True):
        console.print(Text(headline(study, table, place), style="bold"))
    rerun = "" if manifest.label == "live" else f"   Rerun: grove reproduce {folder}/manifest.json"
    console.print(f"\nReport: {folder}/report.html{rerun}", soft_wrap=True)


def clock(seconds: float) -> str:
    """3m12s; 2h05m; 8.4s."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes = round(seconds) // 60
    return (
        f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{round(seconds) % 60:02}s"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _command() -> str:
    import shlex

    return shlex.join(["grove", *sys.argv[1:]])


@contextmanager
def _progress(study: Study) -> Iterator[Tell]:
    """How far, and how long yet: a bar on standard error, or now and then a line."""
    began = time.monotonic()
    runs = len(study.sides)

    def left(share: float) -> str:
        spent = time.monotonic() - began
        return f"{clock(spent / share - spent)} left" if share > 0.01 else ""

    if not sys.stderr.isatty():
        last = began

        def line(share: float, done: int, cells: int) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                click.echo(f"{done * runs} of {cells * runs} runs, {share:.0%}, {left(share)}", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("comparing", total=1.0, told="")

        def tell(share: float, done: int, cells: int) -> None:
            said = f"{share:4.0%}  {done * runs} of {cells * runs} runs  {left(share)}"
            bar.update(task, completed=share, told=said)

        yield tell
