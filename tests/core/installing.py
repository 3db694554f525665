"""Installs distributions into a folder on sys.path, for tests of what reads entry points."""

from __future__ import annotations

import importlib
import itertools
import textwrap
from pathlib import Path

import pytest

_serial = itertools.count()

SPEC = """
import msgspec
from typing import Annotated
from msgspec import Meta
from grove_core.hookspecs import hookimpl
from grove_core.machine import Machine
from grove_core.specs import ProtocolSpec, ServiceSpec, TransportSpec, ProfileSpec

GROVE_API = 1

class Config(msgspec.Struct, frozen=True, kw_only=True):
    size: Annotated[int, Meta(ge=1, le=64)] = 5  # peers
    period: Annotated[float, Meta(gt=0)] = 10.0  # seconds
    group: str = "{guest}"  # plugin to host

class Quiet(Machine[object]):
    def __init__(self, config, **hosted):
        self.config, self.hosted = config, hosted

@hookimpl
def grove_{role}():
    return [ProtocolSpec(name="{name}", role="{role}", config=Config, build=Quiet, {more})]
"""


class Shelf:
    """A folder of installed distributions, first on sys.path until the test ends."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.syspath_prepend(str(folder))

    def install(self, distribution: str, version: str = "0.1", **plugins: str) -> None:
        """Put a distribution on the shelf: plugin name (with _ for -) -> source of its module."""
        stem = distribution.replace("-", "_")
        info = self.folder / f"{stem}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        lines = ["[grove]"]
        for name, source in plugins.items():
            module = f"{stem}_{name}_{next(_serial)}"  # a name no other test has imported
            (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
            lines.append(f"{name.replace('_', '-')} = {module}")
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()

    def protocol(self, name: str, role: str = "broadcast", *, guest: str = "", more: str = "") -> str:
        """The source of a plugin whose machine does nothing."""
        return SPEC.format(name=name, role=role, guest=guest, more=more)
