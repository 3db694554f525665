"""Writes docs/reference: every setting and every hook, taken from the code that defines them.

    python -m grove_core.cli.reference [FOLDER]

A test compares the files with what this would write, so the reference is never behind.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from grove_core import hookspecs, specs
from grove_core.cli.fields import fields_of
from grove_core.config import DEFAULT_PROFILE, TABLES, profile_header, profiles
from grove_core.registry import Plugin, Registry

OURS = "grove-node"
"""The distribution whose plugins are described; a third party's plugin has its own pages."""

WRITTEN_BY = "<!-- Written by `python -m grove_core.cli.reference`; change the code instead. -->\n\n"


def configuration() -> str:
    """docs/reference/configuration.md: the layers, the profiles, and every table key by key."""
    return WRITTEN_BY + "\n".join(_configuration())


def hooks() -> str:
    """docs/reference/hooks.md: the whole plugin contract."""
    return WRITTEN_BY + "\n".join(_hooks())


PAGES: dict[str, Callable[[], str]] = {"configuration.md": configuration, "hooks.md": hooks}


def _configuration() -> Iterator[str]:
    yield "# Configuration\n"
    yield "A setting comes from the strongest layer that gives it. Weakest first:\n"
    yield "1. the defaults below;"
    yield "2. the profile and the profiles it extends, parents first;"
    yield "3. a file: `--config FILE`, `$GROVE_CONFIG`, `./grove.toml` or `~/.config/grove/grove.toml`;"
    yield "4. the environment: `GROVE_PLUGINS__HYPARVIEW__ACTIVE_SIZE=6`;"
    yield "5. flags: `--set plugins.hyparview.active_size=6`, and `--data` and their like.\n"
    yield "Tables merge key by key; arrays and scalars are replaced. `grove config explain KEY` says who"
    yield "set a value; `grove config check` finds every mistake at once.\n"
    yield "## Profiles\n"
    yield "| profile | extends | for |"
    yield "|---|---|---|"
    for name, path in profiles().items():
        header = profile_header(path)
        mark = (
            " (default)" if name == DEFAULT_PROFILE and "(default)" not in header["description"] else ""
        )
        yield f"| `{name}` | {header['extends']} | {header['description']}{mark} |"
    for name, kind in TABLES.items():
        yield from _table(f"[{name}]", kind)
    for plugin in _ours():
        for spec in list(plugin.specs.values())[:1]:
            yield from _table(f"[plugins.{plugin.name}]", spec.config)
    yield ""


def _table(title: str, kind: type[msgspec.Struct]) -> Iterator[str]:
    yield f"\n## {title}\n"
    documentation = inspect.getdoc(kind) or ""
    if documentation:
        yield documentation + "\n"
    yield "| key | default | expected | meaning |"
    yield "|---|---|---|---|"
    for field in fields_of(kind):
        default = f"`{_code(field.default)}`" if field.default else "(must be given)"
        yield f"| `{field.name}` | {default} | {_cell(field.expects)} | {_cell(field.about)} |"


def _hooks() -> Iterator[str]:
    yield "# Hooks\n"
    yield f"{inspect.getdoc(hookspecs)}\n"
    yield f"The hook API is at major version {specs.API}: a plugin module says `GROVE_API = {specs.API}`,"
    yield "and one that says anything else is refused with a sentence.\n"
    for name, hook in vars(hookspecs).items():
        if name.startswith("grove_"):
            first = hook.grove_spec["firstresult"]
            counts = "the first answer that is not None counts" if first else "all answers count"
            yield f"## {name}\n"
            signature = str(inspect.signature(hook)).replace("'", "")
            yield f"```python\n@hookimpl\ndef {name}{signature}: ...\n```\n"
            yield f"{inspect.getdoc(hook)}\n"
            plugins = [plugin.name for plugin in _ours() if name in plugin.hooks]
            used = f" Implemented by: {', '.join(plugins)}." if plugins else ""
            yield f"A plain function; {counts}.{used}\n"
    yield "## What hooks hand over\n"
    for kind in (
        specs.ProtocolSpec,
        specs.TransportSpec,
        specs.ServiceSpec,
        specs.ProfileSpec,
    ):
        yield f"### {kind.__name__}\n"
        yield f"```text\n{inspect.getdoc(kind)}\n```\n"
        yield "| field | type | default |"
        yield "|---|---|---|"
        for field in msgspec.structs.fields(kind):
            annotation = str(inspect.get_annotations(kind)[field.name])
            given = "required" if field.required else f"`{_code(repr(_default(field)))}`"
            yield f"| `{field.name}` | `{_code(annotation)}` | {given} |"
        yield ""


def _default(field: Any) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _ours() -> list[Plugin]:
    found = [one.plugin for one in Registry().survey() if one.plugin]
    return [plugin for plugin in found if plugin.offer.distribution == OURS]


def _code(text: str) -> str:
    """Text for backquotes in a table cell."""
    return text.replace("|", "\\|")


def _cell(text: str) -> str:
    return _code(text).replace("<", "&lt;")


def main(folder: Path) -> None:
    """Write the pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference"))
