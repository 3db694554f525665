"""`grove plugins`: what is installed and how it fares, one of them in full, and a new one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grove_core.cli.options import json_option

if TYPE_CHECKING:
    from grove_core.registry import Surveyed

ROLES = ("membership", "broadcast", "transport")
"""What `new` can write: the roles that have a conformance suite."""


@click.group(no_args_is_help=True)
def plugins() -> None:
    """What is installed, what is broken, and how to begin a new one."""


@plugins.command("list")
@json_option
def list_plugins(as_json: bool) -> None:
    """Every installed plugin, sound or not. A broken one is shown with its cause and harms nobody."""
    from grove_core.cli.show import print_json, print_table
    from grove_core.registry import Registry

    found = Registry().survey()
    if as_json:
        print_json("grove.plugins", plugins=[_as_dict(one) for one in found])
        return
    rows = [
        (
            one.name,
            one.state,
            ", ".join(one.roles),
            ", ".join(f"{offer.distribution} {offer.version}" for offer in one.offers),
            " ".join(one.protocols) or one.cause,
        )
        for one in found
    ]
    print_table(("plugin", "state", "roles", "from", "speaks, or why not"), rows)
    if not found:
        click.echo("no plugin is installed; Grove's own come with the distribution grove-node")


@plugins.command()
@click.argument("name")
@json_option
def info(name: str, as_json: bool) -> int:
    """One plugin in full: roles, hooks, wire ids, configuration. Exit 7 if it cannot be used."""
    from grove_core.cli.fields import fields_of
    from grove_core.cli.show import print_json, print_table
    from grove_core.errors import PluginError
    from grove_core.registry import Registry, survey_one

    registry = Registry()
    if name not in registry.names():
        raise PluginError(registry.no_such(name))
    one = survey_one(registry, name)
    specs = list(one.plugin.specs.values()) if one.plugin else []
    fields = fields_of(specs[0].config) if specs else ()
    if as_json:
        print_json("grove.plugin", **_as_dict(one), config=fields)
        return 0 if one.plugin else PluginError.exit_code
    _line("plugin", f"{name} ({one.state})")
    for offer in one.offers:
        _line("from", f"{offer.distribution} {offer.version}, module {offer.target}")
    if one.plugin is None:
        _line("cause", one.cause)
        return PluginError.exit_code
    told = _as_dict(one)
    _line("about", told["about"])
    for key in ("roles", "hooks", "protocols", "provides", "requires", "sources", "profiles"):
        _line(key, ", ".join(told[key]))
    if fields:
        click.echo("")
        rows = [(field.name, field.default, field.expects, field.about) for field in fields]
        print_table((f"[plugins.{name}]", "default", "expected", "meaning"), rows)
    return 0


def _line(label: str, text: str) -> None:
    if text:
        click.echo(f"{label:<10} {text}")


def _as_dict(one: Surveyed) -> dict[str, Any]:
    plugin = one.plugin
    specs = list(plugin.specs.values()) if plugin else []
    documentation = (plugin.module.__doc__ or "").strip() if plugin else ""
    return {
        "name": one.name,
        "state": one.state,
        "cause": one.cause,
        "about": next(iter(documentation.splitlines()), ""),
        "distributions": one.offers,
        "roles": one.roles,
        "hooks": plugin.hooks if plugin else (),
        "protocols": one.protocols,
        "provides": sorted({name for spec in specs for name in spec.provides}),
        "requires": sorted({name for spec in specs for name in spec.requires}),
        "sources": list(dict.fromkeys(source for spec in specs for source in spec.sources)),
        "profiles": [f"{one.name}/{profile.name}" for profile in plugin.profiles] if plugin else [],
    }


@plugins.command()
@click.argument("role", type=click.Choice(ROLES))
@click.argument("name")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), default=".", help="Folder to write it in."
)
def new(role: str, name: str, into: Path) -> None:
    """Write a complete plugin package for ROLE, small and working, with its conformance tests."""
    from grove_core.cli.new_plugin import write_plugin

    folder = write_plugin(role, name, into)
    click.echo(f"wrote {folder}: a working {role} plugin called {name!r}")
    click.echo(f"\n  pip install -e {folder}\n  pytest {folder}")
    click.echo(f"  grove plugins info {name}\n  grove up --set roles.{role}={name}")
