"""`grove plugins new` writes packages that build, install, type-check and pass their suites at once."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from grove_core.cli import main
from grove_core.cli.new_plugin import TEMPLATE, write_plugin
from grove_core.cli.plugins import ROLES
from grove_core.errors import GroveError

ROOT = Path(__file__).parents[3]


def run(*args: str | Path, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ)
    if site is not None:
        env["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def built(folder: Path, site: Path) -> Path:
    """The package as a wheel, laid out as an installer would."""
    run("-m", "hatchling", "build", "-t", "wheel", "-d", site, cwd=folder)
    (wheel,) = site.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.mark.claim("plugins.new")
@pytest.mark.parametrize("role", ROLES)
def test_a_new_plugin_builds_installs_and_passes_its_conformance_tests(role: str, tmp_path: Path):
    pytest.importorskip("hatchling", reason="the build backend of the template is not installed")
    folder = write_plugin(role, f"my-{role}", tmp_path)
    site = built(folder, tmp_path / "site")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", folder, cwd=folder, site=site)
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
    listed = run("-m", "grove_core.cli", "plugins", "info", f"my-{role}", cwd=tmp_path, site=site).stdout
    assert f"my-{role} (ok)" in listed
    check = ("-m", "grove_core.cli", "config", "check", "--profile", "simulation")
    said = run(*check, "--set", f"roles.{role}=my-{role}", cwd=tmp_path, site=site).stdout
    assert f"my-{role}" in said


def test_new_plugins_are_typed_and_tidy(tmp_path: Path):
    folders = [write_plugin(role, f"own-{role}", tmp_path) for role in ROLES]
    for folder in folders:
        run("-m", "ruff", "check", "--no-cache", ".", cwd=folder)
        run("-m", "ruff", "format", "--no-cache", "--check", ".", cwd=folder)
    packages = [option for role in ROLES for option in ("-p", f"grove_{role}_own_{role}")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *packages],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_every_role_of_the_command_has_a_template_and_back():
    assert sorted(path.name for path in TEMPLATE.iterdir()) == sorted([*ROLES, "shared"])


@pytest.mark.parametrize("name", ["My", "a--b", "-a", "a_b", "a.b", "class", "../x", "", "a" * 80, "3d"])
def test_names_that_will_not_do_are_refused(name: str, tmp_path: Path):
    with pytest.raises(GroveError, match="will not do as a plugin's name"):
        write_plugin("broadcast", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_taken_name_and_a_used_folder_are_refused(tmp_path: Path):
    with pytest.raises(GroveError, match="'plumtree' is taken by grove-node"):
        write_plugin("broadcast", "plumtree", tmp_path)
    write_plugin("broadcast", "mine", tmp_path)
    with pytest.raises(GroveError, match="exists and is not empty"):
        write_plugin("broadcast", "mine", tmp_path)


def test_a_role_without_a_suite_is_a_usage_error_that_lists_the_roles(tmp_path: Path, capsys):
    assert main(["plugins", "new", "consensus", "mine", "--into", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert all(role in said for role in ROLES)
