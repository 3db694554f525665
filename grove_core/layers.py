"""Layers of settings, merged; every value remembers who set it.

Tables merge key by key; scalars and arrays are replaced. What is wrong becomes a `Problem` with the
origin of the offending value, so that all problems of all layers can be told together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from grove_core.words import describe, did_you_mean, short

Key = tuple[str, ...]
T = TypeVar("T", bound=msgspec.Struct)


class Origin(msgspec.Struct, frozen=True):
    """Who set a value. layer: "default", "profile …", "file", "environment" or "flag"."""

    layer: str
    place: str = ""  # file, variable or flag
    line: int = 0  # 0: not a file, or not known
    rank: int = 0  # a larger rank wins

    def __str__(self) -> str:
        return f"{self.place}:{self.line}" if self.line else self.place or self.layer


class Setting(msgspec.Struct, frozen=True):
    """A value and who set it. text: how it was typed where that was not TOML."""

    value: Any
    origin: Origin
    text: str | None = None


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, as a sentence that begins with where it was said."""

    origin: Origin
    text: str
    is_plugin: bool = False  # the plugin is at fault, not what was written

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


class Layer(msgspec.Struct, frozen=True):
    """One source of settings: what it says and, per key, from where."""

    tree: dict[str, Any]
    origin: Origin
    lines: dict[Key, int] = {}
    text: str | None = None

    def at(self, key: Key) -> Origin:
        """The origin of a key; of the table around it if the key's own line is unknown."""
        for depth in range(len(key), 0, -1):
            if line := self.lines.get(key[:depth]):
                return msgspec.structs.replace(self.origin, line=line)
        return self.origin


class Layers:
    """What is in force, and everyone who had a say in it."""

    def __init__(self) -> None:
        self._history: dict[Key, list[Setting]] = {}
        self._live: dict[Key, Setting] = {}  # leaves in force
        self._tables: dict[Key, Origin] = {}

    def add(self, layer: Layer) -> None:
        """Put a stronger layer on top."""
        self._tables.setdefault((), layer.origin)
        for key, value in _walk(layer.tree):
            origin = layer.at(key)
            for depth in range(1, len(key)):  # a table replaces the scalar that was there
                self._live.pop(key[:depth], None)
            if isinstance(value, dict):
                self._live.pop(key, None)
                self._tables[key] = origin
                continue
            if key in self._tables:  # and a scalar the table
                for path in [path for path in self._live if path[: len(key)] == key]:
                    del self._live[path]
                for path in [path for path in self._tables if path[: len(key)] == key]:
                    del self._tables[path]
            setting = Setting(value, origin, layer.text)
            self._live[key] = setting
            self._history.setdefault(key, []).append(setting)

    def history(self, key: Key) -> tuple[Setting, ...]:
        """Everyone who set a key, weakest first, without the default."""
        return tuple(self._history.get(key, ()))

    def names(self, table: Key) -> tuple[str, ...]:
        """The keys that stand in a table, in order of appearance."""
        depth = len(table)
        found = (*self._live, *self._tables)
        return tuple(
            dict.fromkeys(key[depth] for key in found if len(key) > depth and key[:depth] == table)
        )

    def is_leaf(self, key: Key) -> bool:
        """Whether a value, not a table, is in force under a key."""
        return key in self._live

    def leaves(self) -> tuple[Key, ...]:
        """Every key with a value in force, in order of first appearance."""
        return tuple(self._live)

    def value(self, key: Key) -> Any:
        """What is in force under a key, a table as a dict; KeyError if nobody set it."""
        if key in self._live:
            return self._live[key].value
        if key not in self._tables:
            raise KeyError(key)
        return {name: self.value((*key, name)) for name in self.names(key)}

    def origin(self, key: Key) -> Origin:
        """Who set what is in force under a key; for a table, the strongest in it."""
        if key in self._live:
            return self._live[key].origin
        inside = [setting.origin for path, setting in self._live.items() if path[: len(key)] == key]
        if key in self._tables:
            inside.append(self._tables[key])
        return max(inside, key=lambda origin: origin.rank, default=Origin("default"))

    def read(self, table: Key, kind: type[T], problems: list[Problem]) -> T | None:
        """A table as a struct; None if anything in it is wrong, and then `problems` says what.

        msgspec stops at the first error, so every field is converted by itself.
        """
        before = len(problems)
        if table in self._live:
            self.tell(problems, table, f"expected a table, [{'.'.join(table)}]")
            return None
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        for name in self.names(table):
            if name not in fields:
                hint = did_you_mean(name, fields)
                keys = ", ".join(fields) or "none"
                self.tell(problems, (*table, name), f"unknown key{hint} (keys here: {keys})")
        for name, field in fields.items():
            key = (*table, name)
            if key in self._live or key in self._tables:
                about = inspect.type_info(field.type)
                if isinstance(about, inspect.StructType) and key in self._tables:
                    values[field.name] = self.read(key, about.cls, problems)
                else:
                    values[field.name] = self._convert(key, field.type, problems)
            elif field.required:
                where = self.origin(table)
                text = f"[{'.'.join(table)}] {name}: missing; expected {describe(field.type)}"
                problems.append(Problem(where, text))
        if len(problems) > before:
            return None
        try:
            return kind(**values)
        except Exception as error:  # the struct's own __post_init__, whoever wrote it
            blamed = [(*table, name) for name in self.names(table) if name in str(error)]
            where = max((self.origin(key) for key in blamed or [table]), key=lambda origin: origin.rank)
            problems.append(Problem(where, f"[{'.'.join(table)}]: {error}"))
            return None

    def _convert(self, key: Key, kind: Any, problems: list[Problem]) -> Any:
        value = self.value(key)
        try:
            if not _is_finite(value):
                raise msgspec.ValidationError("not a finite number")
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            setting = self._live.get(key)
            if setting is not None and setting.text is not None:  # GROVE_NODE__NETWORK=42 means "42"
                try:
                    return msgspec.convert(setting.text, kind)
                except msgspec.ValidationError:
                    pass
            inside = re.search(r"`\$(.+)`$", str(error))
            where = f" at {inside[1]}" if inside else ""
            self.tell(problems, key, f"expected {describe(kind)}{where}")
            return None

    def tell(self, problems: list[Problem], key: Key, what: str) -> None:
        """Add a problem with what stands under a key."""
        shown = f"[{'.'.join(key[:-1])}] " if len(key) > 1 else ""
        value = f" = {short(self._live[key].value)}" if key in self._live else ""
        problems.append(Problem(self.origin(key), f"{shown}{key[-1]}{value}: {what}"))


def in_order(problems: Iterable[Problem]) -> list[str]:
    """The sentences, by layer and line, each once."""
    ordered = sorted(problems, key=lambda problem: (problem.origin.rank, problem.origin.line))
    return list(dict.fromkeys(map(str, ordered)))


def _walk(tree: dict[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every table (before what is in it) and every leaf."""
    for name, value in tree.items():
        key = (*above, name)
        yield key, value
        if isinstance(value, dict):
            yield from _walk(value, key)


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, list) else True
