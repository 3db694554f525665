"""The js side is pinned, installs with `npm ci` on every platform, and names no registry."""

from __future__ import annotations

import json
import re

from tests.interop.js_peer import FOLDER

LOCK = json.loads((FOLDER / "package-lock.json").read_text())["packages"]


def test_versions_are_exact() -> None:
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    assert [name for name, version in wanted.items() if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []
    assert {name: LOCK[f"node_modules/{name}"]["version"] for name in wanted} == wanted


def test_no_registry_is_named() -> None:
    assert [name for name, package in LOCK.items() if "resolved" in package] == []


def test_other_platforms_are_locked_too() -> None:
    """npm leaves out what its registry does not have, and `npm ci` then refuses the whole file."""
    optional = {name for package in LOCK.values() for name in package.get("optionalDependencies", ())}
    assert optional
    assert {name for name in optional if f"node_modules/{name}" not in LOCK} == set()
