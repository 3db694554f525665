"""The verbs of the lab: `grove sim run`, `grove sim list`, `grove sim shrink`, `grove replay`."""

from __future__ import annotations

from pathlib import Path

import click

from grove_core.cli.options import json_option


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
        rows_of_text = [(one.name, f"{one.nodes:,}", one.description) for one in found]
        print_table(("scenario", "nodes", "what happens"), rows_of_text)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def replay(file: Path) -> None:
    """Run a recorded failure again, to the moment it happened."""
