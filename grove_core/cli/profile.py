"""`grove profile`: the profiles there are, and what each one says once its parents have spoken."""

from __future__ import annotations

import click

from grove_core.cli.options import json_option


@click.group(no_args_is_help=True)
def profile() -> None:
    """The profiles there are, and what they say."""


@profile.command("list")
@json_option
def list_profiles(as_json: bool) -> None:
    """Every profile by name; those of plugins are called PLUGIN/NAME."""
    from grove_core.cli.show import print_json, print_table
    from grove_core.config import DEFAULT_PROFILE, profile_header, profiles
    from grove_core.registry import Registry

    paths = profiles()
    for one in Registry().survey():
        for spec in one.plugin.profiles if one.plugin else ():
            paths[f"{one.name}/{spec.name}"] = spec.path
    found = [{"name": name, "path": str(path), **profile_header(path)} for name, path in paths.items()]
    if as_json:
        print_json("grove.profiles", default=DEFAULT_PROFILE, profiles=found)
        return
    rows = [(one["name"], one["extends"], one["description"]) for one in found]
    print_table(("profile", "extends", "for"), rows)
    click.echo(f"\ndefault: {DEFAULT_PROFILE}; one of them in full: grove profile show NAME")


@profile.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """All that a profile sets, as TOML, each line with the file and line that set it."""
    from grove_core.cli.show import print_json, toml, toml_key
    from grove_core.config import load

    found = load(name, environ={})
    found.check()
    keys = found.leaves()
    if as_json:
        origins = {".".join(key): str(found.origin(key)) for key in keys}
        print_json(
            "grove.profile", name=name, chain=found.chain, settings=found.value(()), origins=origins
        )
        return
    click.echo(f"# {' extends '.join(found.chain)}")
    for table in dict.fromkeys(key[:-1] for key in keys):
        click.echo("")
        if table:
            click.echo(f"[{'.'.join(map(toml_key, table))}]")
        for key in keys:
            if key[:-1] == table:
                line = f"{toml_key(key[-1])} = {toml(found.value(key))}"
                click.echo(f"{line:<44} # {found.origin(key)}")
