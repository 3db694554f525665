"""Where settings come from: a file, a variable of the environment, a flag. Each becomes a `Layer`.

Any bytes and any text at all may come in here: what cannot be understood becomes a `Problem` that
names its place, and the layers that can be understood still count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from grove_core.layers import Key, Layer, Origin, Problem
from grove_core.lines import key_lines, key_path
from grove_core.words import short

try:
    import tomllib
except ModuleNotFoundError:  # pragma: no cover - Python below 3.11
    import tomli as tomllib  # type: ignore[no-redef, unused-ignore]

MAX_FILE = 256 * 1024  # bytes; ours have 2 KiB, and a config is typed by a person
MAX_DEPTH = 16  # tables and arrays within each other; ours have 3

SHORT_NAMES = {"GROVE_PROFILE": ("profile",), "GROVE_DATA": ("node", "data")}
"""Variables that are settings without saying their table."""


def from_file(path: Path, origin: Origin, problems: list[Problem]) -> Layer:
    """What a TOML file says; nothing if it cannot be read."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        problems.append(Problem(origin, f"cannot be read: {reason}"))
        return Layer({}, origin)
    return from_bytes(data, origin, problems)


def from_bytes(data: bytes, origin: Origin, problems: list[Problem]) -> Layer:
    """What a TOML text says, each key with its line."""
    line = 0
    try:
        if len(data) > MAX_FILE:
            raise ValueError(f"longer than {MAX_FILE:,} bytes")
        text = data.decode().replace("\r\n", "\n")
        tree = tomllib.loads(text)
        if _depth(tree) > MAX_DEPTH:
            raise ValueError(f"values nested deeper than {MAX_DEPTH}")
        return Layer(tree, origin, key_lines(text))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = "not UTF-8"
    except RecursionError:
        what = "values nested too deep"
    except ValueError as error:  # tomllib's own, and integers of more than 4,300 digits
        what = str(error)
        if place := re.search(r" \(at line (\d+), column \d+\)$", what):
            line, what = int(place[1]), what[: place.start()]
    problems.append(Problem(msgspec.structs.replace(origin, line=line), f"not a TOML file: {what}"))
    return Layer({}, origin)


def from_environment(
    environ: Mapping[str, str], plugins: Sequence[str], problems: list[Problem]
) -> Iterator[Layer]:
    """A layer per variable. Only names with ``__`` are settings, besides the short ones.

    plugins: the installed names, since a shell cannot say "my-flood" and MY_FLOOD must do.
    """
    for variable in sorted(environ):
        origin = Origin("environment", f"environment {variable}", rank=200)
        text = environ[variable]
        if variable in SHORT_NAMES and text:
            yield Layer(_nest(SHORT_NAMES[variable], text), origin, text=text)
        elif variable.startswith("GROVE_") and "__" in variable:
            key = tuple(variable.removeprefix("GROVE_").lower().split("__"))
            if not all(key) or len(key) > MAX_DEPTH:
                wanted = f"expected GROVE_TABLE__KEY: no part empty, at most {MAX_DEPTH} parts"
                problems.append(Problem(origin, wanted))
                continue
            if key[0] == "plugins" and len(key) > 1:
                named = {name.lower().replace("-", "_"): name for name in plugins}
                key = ("plugins", named.get(key[1], key[1]), *key[2:])
            yield Layer(_nest(key, _typed(text)), origin, text=text)


def from_flags(
    flags: Sequence[tuple[str, str, Any]], sets: Sequence[str], problems: list[Problem]
) -> Iterator[Layer]:
    """A layer per ``--set KEY=VALUE``, later ones stronger; then one per flag (flag, key, value)."""
    for rank, text in enumerate(sets, start=300):
        name, equals, value = text.partition("=")
        origin = Origin("flag", f"--set {name.strip()}", rank=rank)
        try:
            key = key_path(name.strip()) if equals else ()
        except (ValueError, RecursionError):
            key = ()
        if not 0 < len(key) <= MAX_DEPTH:
            wanted = "expected KEY=VALUE, as roles.broadcast=flood"
            problems.append(Problem(origin, f"{short(text)}: {wanted}"))
            continue
        yield Layer(_nest(key, _typed(value.strip())), origin, text=value.strip())
    for flag, name, value in flags:
        yield Layer(_nest(key_path(name), value), Origin("flag", flag, rank=1_000_000))


def _typed(text: str) -> Any:
    """A value as typed in a shell: TOML if it is TOML, else the text itself."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tree["value"] if len(tree) == 1 and _depth(tree) <= MAX_DEPTH else text


def _nest(key: Key, value: Any) -> dict[str, Any]:
    for name in reversed(key):
        value = {name: value}
    tree: dict[str, Any] = value
    return tree


def _depth(tree: dict[str, Any]) -> int:
    level: list[Any] = [tree]
    for depth in range(1, MAX_DEPTH + 2):
        level = [
            value
            for above in level
            for value in (above.values() if isinstance(above, dict) else above)
            if isinstance(value, dict | list)
        ]
        if not level:
            return depth
    return MAX_DEPTH + 1


def shown(path: Path) -> str:
    """A path as people like it: relative where that is shorter."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
