"""The `grove` command without a running node: help, profile, config, plugins, and how errors are told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from grove_core.cli import VERBS, grove, main
from grove_core.cli.fields import fields_of
from grove_core.cli.options import Options, usual_file
from grove_core.cli.reference import PAGES
from grove_core.cli.show import toml, toml_key
from grove_core.config import load, profiles
from grove_core.errors import ConfigError, NotRunning
from grove_core.registry import assemble
from tests.core.installing import Shelf

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and home, so that no configuration of this machine counts."""
    folder = tmp_path / "away"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "none"))
    for name in ("GROVE_CONFIG", "GROVE_PROFILE", "GROVE_DATA"):
        monkeypatch.delenv(name, raising=False)
    return folder


def said(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert main(args) == code, capsys.readouterr().err
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], *args: str, code: int) -> str:
    assert main(args) == code
    return capsys.readouterr().err


# Help


@pytest.mark.claim("cli.help-is-light")
@pytest.mark.parametrize("args", [["--help"], ["--version"], []])
def test_help_imports_neither_plugins_nor_heavy_libraries(args: list[str], away: Path):
    code = (
        "import sys; from grove_core.cli import main; "
        f"code = main({args!r}); "
        "heavy = ('aioquic', 'asyncio', 'cryptography', 'google', 'loro', 'msgspec', 'numpy', "
        "'pluggy', 'rich', 'ssl', 'zeroconf', 'zmq'); "
        "print([name for name in sys.modules if name in heavy or "
        "(name.startswith('grove_') and not name.startswith('grove_core'))], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=away
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_every_verb_of_the_table_is_in_the_help(capsys):
    text = said(capsys, "--help")
    for name, verb in VERBS.items():
        assert f"  {name} " in text
        assert verb.does in text


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_of_the_table_is_a_command_of_that_name(name: str):
    command = grove.get_command(click.Context(grove), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(200)


def test_help_all_asks_the_plugins_and_survives_a_broken_one(shelf: Shelf, capsys):
    verb = (
        "\nimport click\n@click.command('sing')\n@click.option('--loud', is_flag=True)\n"
        "def sing(loud):\n    'Sing a song.'\n    click.echo('LA' if loud else 'la')\n    return 4\n"
        "@hookimpl\ndef grove_commands():\n    return [sing]\n"
    )
    shelf.install("songs", songs=shelf.protocol("songs") + verb)
    shelf.install("mute", mute="1 / 0")
    stutter = "\n@hookimpl\ndef grove_commands():\n    raise ValueError('um')\n"
    shelf.install("shy", shy=shelf.protocol("shy") + stutter)
    text = said(capsys, "--help-all")
    assert " ".join(["sing", "Sing a song."]) in " ".join(text.split())
    assert "mute" in text
    assert said(capsys, "sing", "--loud", code=4) == "LA\n"
    assert "Sing a song." in said(capsys, "sing", "--help")
    error = told(capsys, "sang", code=2)
    assert "no verb 'sang'; did you mean 'sing'?" in error
    assert "a plugin that did not load: mute, shy" in error


def test_a_mistyped_verb_is_a_usage_error_with_the_nearest_one(capsys):
    assert "no verb 'plugin'; did you mean 'plugins'?" in told(capsys, "plugin", code=2)


# Errors


def failing(error: BaseException) -> click.Command:
    @click.command("fail")
    @click.option("--json", "as_json", is_flag=True)
    def fail(as_json: bool) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            NotRunning("no node answers at /x; start one: grove up"),
            3,
            "no node answers at /x; start one: grove up\n",
        ),
        (KeyboardInterrupt(), 130, "\n"),
        (
            ZeroDivisionError("by zero"),
            1,
            "grove made a mistake (ZeroDivisionError: by zero); to see where, add --debug\n",
        ),
    ],
)
def test_an_error_is_a_sentence_and_a_code(error, code, text, monkeypatch, capsys):
    monkeypatch.setattr(grove, "get_command", lambda ctx, name: failing(error))
    monkeypatch.setitem(VERBS, "fail", VERBS["up"])
    assert told(capsys, "fail", code=code) == text


def test_a_reader_who_has_seen_enough_is_no_error(away: Path):
    command = [sys.executable, "-m", "grove_core.cli", "profile", "show", "validator"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=away)
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (1, b"")


def test_with_json_an_error_is_an_object_too_and_with_debug_it_is_raised(monkeypatch, capsys):
    monkeypatch.setattr(grove, "get_command", lambda ctx, name: failing(NotRunning("nobody there")))
    monkeypatch.setitem(VERBS, "fail", VERBS["up"])
    answer = json.loads(said(capsys, "fail", "--json", code=3))
    assert answer == {
        "schema": "grove.error",
        "version": 1,
        "exit_code": 3,
        "problems": ["nobody there"],
    }
    with pytest.raises(NotRunning):
        main(["fail", "--debug"])


# grove config


def test_five_mistakes_exit_with_6_and_start_nothing(away: Path, capsys):
    (away / "grove.toml").write_text(
        '[node]\nnetwrok = "home"\n[limits]\ndials = "eight"\nconnections = -4\n'
        '[roles]\nbroadcast = "plumtre"\n[plugins.hyparview]\nactive_seize = 7\n'
    )
    lines = told(capsys, "config", "check", code=6).splitlines()
    assert lines[0] == "5 mistakes in the configuration; nothing was started"
    assert [line.split(": ")[0] for line in lines[1:]] == [
        f"grove.toml:{line}" for line in (2, 4, 5, 7, 9)
    ]
    for line, nearest in ((1, "'network'"), (4, "'plumtree'"), (5, "'active_size'")):
        assert f"did you mean {nearest}?" in lines[line]
    assert told(capsys, "up", "--data", str(away / "data"), code=6).splitlines() == lines
    assert sorted(path.name for path in away.iterdir()) == ["grove.toml"]
    answer = json.loads(said(capsys, "config", "check", "--json", code=6))
    assert answer["exit_code"] == 6
    assert len(answer["problems"]) == 5


def test_check_names_the_plugins_and_the_tables_nobody_reads(away: Path, capsys):
    (away / "grove.toml").write_text("[plugins.pool]\nnonsense = 1\n")
    text = said(capsys, "config", "check", "--profile", "simulation")
    assert "profile simulation is in order: hyparview, plumtree" in text
    assert "not checked, since no role names them: [plugins.pool]" in text
    answer = json.loads(said(capsys, "config", "check", "--profile", "simulation", "--json"))
    assert answer["not_checked"] == ["pool"]


def test_show_is_toml_that_says_who_set_what(capsys, monkeypatch):
    monkeypatch.setenv("GROVE_LIMITS__DIALS", "3")
    args = ("--profile", "simulation", "--set", "plugins.hyparview.active_size=6")
    text = said(capsys, "config", "show", *args)
    tree = tomllib.loads(text)
    assert tree["limits"]["dials"] == 3
    assert tree["plugins"]["hyparview"]["active_size"] == 6
    assert "# environment GROVE_LIMITS__DIALS" in text
    assert "# --set plugins.hyparview.active_size" in text
    answer = json.loads(said(capsys, "config", "show", *args, "--json"))
    assert (answer["schema"], answer["version"]) == ("grove.config", 1)
    assert answer["settings"]["limits"]["dials"] == 3
    assert answer["origins"]["limits.dials"] == "environment GROVE_LIMITS__DIALS"
    assert answer["origins"]["node.network"] == "default"


@pytest.mark.claim("config.provenance")
def test_explain_gives_everyone_who_set_a_value_weakest_first(away: Path, capsys):
    (away / "grove.toml").write_text("[limits]\ndials = 5\n")
    lines = said(capsys, "config", "explain", "limits.dials", "--set", "limits.dials=6").splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [
        "default",
        str(profiles()["residential"]) + f":{line_of('residential', 'dials =')}",
        "grove.toml:2",
        "--set limits.dials",
    ]
    assert "in force: 6, set by --set limits.dials" in lines
    assert "expected: an integer from 1 to 1,024" in lines
    assert "meaning:  dials in flight" in lines
    answer = json.loads(said(capsys, "config", "explain", "limits.dials", "--json"))
    assert [one["value"] for one in answer["set_by"]] == ["8", "8", "5"]


def line_of(profile: str, start: str) -> int:
    lines = profiles()[profile].read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.startswith(start))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("limits.dails", "limits.dails: unknown key; did you mean 'dials'?"),
        ("limit.dials", "[limit]: no such table; did you mean 'limits'?"),
        ("limits", "limits: expected TABLE.KEY, as limits.dials"),
        ("a..b", "expected TABLE.KEY, as limits.dials"),
    ],
)
def test_explaining_what_is_not_there_is_a_usage_error(key: str, text: str, capsys):
    assert text in told(capsys, "config", "explain", key, code=2)


def test_a_setting_of_an_absent_plugin_cannot_be_explained(capsys):
    assert "no installed plugin is called 'hyparveiw'; did you mean 'hyparview'?" in told(
        capsys, "config", "explain", "plugins.hyparveiw.active_size", code=7
    )


def test_explain_profile_says_who_chose_it(capsys, monkeypatch):
    assert 'in force: "residential", set by default' in said(capsys, "config", "explain", "profile")
    monkeypatch.setenv("GROVE_PROFILE", "lan")
    assert "set by environment GROVE_PROFILE" in said(capsys, "config", "explain", "profile")


# The options all verbs share


def test_the_configuration_is_looked_for_in_three_places(away: Path, monkeypatch):
    assert usual_file() is None
    monkeypatch.setenv("XDG_CONFIG_HOME", str(away / "home"))
    own = away / "home" / "grove" / "grove.toml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert usual_file() == own
    Path("grove.toml").touch()
    assert usual_file() == Path("grove.toml")
    monkeypatch.setenv("GROVE_CONFIG", "/elsewhere.toml")
    assert usual_file() == Path("/elsewhere.toml")


def test_a_data_folder_that_was_told_is_used_whatever_the_configuration_says(away: Path):
    Path("grove.toml").write_text('[node]\ndata = "of-the-file"\n')
    assert Options().data == away / "of-the-file"
    assert Options(folder="told").data == away / "told"
    Path("grove.toml").write_text("[[[ broken")
    assert Options(folder="told").data == away / "told"
    with pytest.raises(ConfigError):
        _ = Options().data


# grove profile


def test_profiles_are_listed_and_shown_with_their_origins(capsys):
    answer = json.loads(said(capsys, "profile", "list", "--json"))
    listed = {one["name"]: one for one in answer["profiles"]}
    assert answer["default"] == "residential"
    assert {"base", "residential", "super-peer", "lan", "validator", "simulation"} <= set(listed)
    assert listed["validator"]["extends"] == "super-peer"
    assert all(one["description"] for one in listed.values())
    text = said(capsys, "profile", "show", "validator")
    tree = tomllib.loads(text)
    assert text.startswith("# validator extends super-peer extends base")
    assert tree["limits"]["connections"] == 512
    assert tree["plugins"]["hyparview"]["active_size"] == 10
    assert "validator.toml:" in text
    assert "super-peer.toml:" in text


def test_a_profile_nobody_has_is_told_with_the_nearest(capsys):
    assert "did you mean 'residential'?" in told(capsys, "profile", "show", "residental", code=6)


# grove plugins


def test_plugins_are_listed_sound_or_not(shelf: Shelf, capsys):
    shelf.install("bad", "0.3", bad="import torch_of_another_world")
    shelf.install("good", good=shelf.protocol("good", more='protocols=("/good/1.0.0",)'))
    answer = json.loads(said(capsys, "plugins", "list", "--json"))
    found = {one["name"]: one for one in answer["plugins"]}
    assert (found["good"]["state"], found["good"]["roles"]) == ("ok", ["broadcast"])
    assert found["good"]["protocols"] == ["/good/1.0.0"]
    assert found["good"]["hooks"] == ["grove_broadcast"]
    assert found["bad"]["state"] == "broken"
    assert found["bad"]["distributions"][0]["distribution"] == "bad"
    rows = said(capsys, "plugins", "list").splitlines()
    (row,) = [row for row in rows if row.startswith("bad ")]
    assert "broken" in row
    assert "No module named 'torch_of_another_world'" in row


def test_info_shows_the_configuration_and_fails_for_a_broken_plugin(shelf: Shelf, capsys):
    shelf.install("bad", "0.3", bad="1 / 0")
    shelf.install("good", good=shelf.protocol("good"))
    text = said(capsys, "plugins", "info", "good")
    (row,) = [row for row in text.splitlines() if row.startswith("size ")]
    assert row.split(maxsplit=2) == ["size", "5", "an integer from 1 to 64  peers"]
    assert "cause" in said(capsys, "plugins", "info", "bad", code=7)
    assert "no installed plugin is called 'goood'; did you mean 'good'?" in told(
        capsys, "plugins", "info", "goood", code=7
    )


# What is written down


@pytest.mark.claim("docs.reference")
@pytest.mark.parametrize("page", PAGES)
def test_the_reference_is_not_behind_the_code(page: str):
    written = (ROOT / "docs" / "reference" / page).read_text()
    assert written == PAGES[page](), "run: python -m grove_core.cli.reference"


def test_every_setting_of_grove_toml_is_what_holds_without_it():
    text = (ROOT / "grove.toml").read_text()
    live = re.sub(r"(?m)^#(?=[^ \n])", "", text)
    Path("grove.toml").write_text(live)
    uncommented, bare = (load(file=file, environ={}) for file in (Path("grove.toml"), None))
    assert assemble(uncommented) == assemble(bare)
    assert len(uncommented.leaves()) > len(bare.leaves())
    assert live.count("\n[") == 6, "a heading was lost in a comment"


@pytest.mark.claim("profiles.residential")
def test_the_residential_limits_keep_dead_peers_below_200_flows():
    """Arithmetic on the limits, for peers that never answer; what a router sees is not measured here."""
    limits = assemble(load(environ={})).limits
    assert limits.dials <= 8
    assert limits.dials_per_second <= 2
    remembered = limits.dials * 120 / limits.dial_timeout  # dead attempts a router still remembers
    assert limits.connections + limits.dials + remembered <= 200


@pytest.mark.parametrize("name", sorted(profiles()))
def test_every_shipped_profile_assembles_and_explains_every_number(name: str):
    assemble(load(name, environ={}))
    for line in profiles()[name].read_text().splitlines():
        if "=" in line and not line.startswith(("#", "description", "extends")) and line[-1] != "]":
            assert "#" in line, f"{name}: {line!r} has no reason beside it"


def test_fields_are_documented_by_trailing_comments_or_strings_below():
    from grove_hyparview.config import Config

    from grove_core.node import Limits

    limits = {field.name: field for field in fields_of(Limits)}
    assert limits["dials"].about == "dials in flight"
    fields = {field.name: field for field in fields_of(Config)}
    assert fields["active_size"].about.startswith("Links kept open")
    assert fields["active_size"].default == "5"


def test_values_survive_the_way_to_toml_and_back():
    value = {"a b": [1, 2.5, True, 'x"\n\x7fé'], "c": {"d": "e"}, "f-g": {}}
    text = "\n".join(f"{toml_key(name)} = {toml(item)}" for name, item in value.items())
    assert tomllib.loads(text) == value
