"""The house is as the design says: rooms where a newcomer would look, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from grove_core import hookspecs
from grove_core.machine import Machine, Message
from grove_core.specs import API, ProtocolSpec

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists())
PROTOCOLS = [
    name
    for name in PLUGINS
    if (ROOT / "plugins" / name / "machine.py").exists() or (ROOT / "plugins" / name / "machine").is_dir()
]


def specs(module: Any) -> list[ProtocolSpec]:
    """Every protocol a plugin module offers."""
    roles = ("discovery", "membership", "broadcast", "storage", "consensus")
    return [spec for role in roles for spec in getattr(module, f"grove_{role}", list)()]


def tracked() -> list[Path]:
    """Files git knows or would take; everything below the root where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_the_top_level_is_the_one_the_design_fixes() -> None:
    allowed = {"grove_core", "plugins", "contrib", "tests", "docs", "benchmarks", ".ci"}
    assert {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT} <= allowed


def test_folders_entry_points_and_the_installed_names_agree() -> None:
    declared = PROJECT["project"]["entry-points"]["grove"]
    assert sorted(declared.values()) == PLUGINS
    assert all(module == f"grove_{name}" for name, module in declared.items())
    installed = {entry.name for entry in entry_points(group="grove") if entry.dist is not None
                 and entry.dist.name == PROJECT["project"]["name"]}  # fmt: skip
    assert installed == set(declared), "entry points changed: reinstall with make"


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_says_what_it_is_and_which_contract_it_speaks(name: str) -> None:
    module = import_module(name)
    assert module.GROVE_API == API
    assert module.__doc__
    assert (ROOT / "plugins" / name / "py.typed").exists()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_plugin_is_five_small_files(name: str) -> None:
    have = {path.stem for path in (ROOT / "plugins" / name).iterdir() if path.name != "__pycache__"}
    assert {"__init__", "config", "machine", "py"} <= have, "config.py, machine.py, py.typed"
    for spec in specs(import_module(name)):
        assert spec.sources, f"{spec.name} names no paper or specification"
        assert spec.codec is None or "messages" in have


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_message_has_a_handler(name: str) -> None:
    if not (ROOT / "plugins" / name / "messages.py").exists():
        return
    messages = import_module(f"{name}.messages")
    machine = type(specs(import_module(name))[0].build(specs(import_module(name))[0].config()))
    if machine.on_message is not Machine.on_message or machine.on_request is not Machine.on_request:
        return  # dispatches by itself, and answers to its own tests
    for kind in vars(messages).values():
        if isinstance(kind, type) and issubclass(kind, Message) and kind.__module__ == messages.__name__:
            used = kind in machine.message_handlers or _is_part_of_another(kind, messages)
            assert used, f"{name}: nothing handles {kind.__name__}"


def _is_part_of_another(kind: type, messages: Any) -> bool:
    hints = [
        str(getattr(other, "__annotations__", {}))
        for other in vars(messages).values()
        if other is not kind
    ]
    return any(re.search(rf"\b{kind.__name__}\b", text) for text in hints)


HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, "grove_spec")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test_and_a_page(hook: str) -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert hook in tests, f"no test names {hook}"
    assert hook in (ROOT / "docs" / "reference" / "hooks.md").read_text()
    assert getattr(hookspecs, hook).__doc__


def test_the_wheel_holds_the_tree_and_nothing_else(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tree = set()
    for path in tracked():
        relative = path.relative_to(ROOT)
        if relative.parts[0] == "grove_core":
            tree.add(relative.as_posix())
        elif relative.parts[0] == "plugins":
            tree.add(relative.relative_to("plugins").as_posix())
    assert inside == tree


def test_tests_do_not_sleep() -> None:
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "contrib").rglob("tests/*.py")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.search(r"\bsleep\(\s*([0-9.]+)", line)
            assert found is None or float(found[1]) <= 0.05, f"{path}:{number} sleeps: wait for an event"


def test_no_trace_of_the_workshop() -> None:
    marks = ["/" + "work/", "/" + "root/", ".mir" + "ror/", "npm." + "mirror", "pypi." + "mirror"]
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for mark in marks:
            assert mark not in text, f"{path.relative_to(ROOT)} names a place of one machine: {mark}"
