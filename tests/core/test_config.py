"""Layers, origins and mistakes: what a configuration says, who said it, and what is wrong with it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from grove_core import config
from grove_core.config import load
from grove_core.errors import ConfigError
from grove_core.layers import Layer, Origin, Problem
from grove_core.node import Limits, Settings
from grove_core.registry import Registry, assemble
from grove_core.sources import MAX_FILE, from_bytes
from grove_core.words import describe
from tests import fuzz
from tests.core.installing import Shelf

DEFAULTS = Path(config.__file__).parent.parent / "grove.toml"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that files are told by their bare names."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def written(folder: Path, text: str, name: str = "grove.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(found: config.Configuration) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        found.check()
    assert raised.value.exit_code == 6
    return raised.value.problems


FIVE = """\
profile = "residential"

[node]
netwrok = "home"

[limits]
dials = "eight"
connections = -4

[roles]
broadcast = "murmer"

[plugins.murmur]
sise = 7
"""


@pytest.mark.claim("config.five-mistakes")
def test_five_mistakes_are_five_errors_with_file_line_and_nearest_key(here: Path, shelf: Shelf):
    shelf.install("murmur", murmur=shelf.protocol("murmur", "storage"))
    file = written(here, FIVE)
    sets = ["roles.transport=[]", "roles.service=[]", "roles.membership=[]", "roles.storage=murmur"]
    with pytest.raises(ConfigError) as raised:
        assemble(load(file=file, sets=sets, environ={}))
    first, second, third, fourth, fifth = raised.value.problems
    assert first.startswith(
        "grove.toml:4: [node] netwrok = 'home': unknown key; did you mean 'network'? (keys here: "
    )
    assert second == "grove.toml:7: [limits] dials = 'eight': expected an integer from 1 to 1,024"
    assert third == "grove.toml:8: [limits] connections = -4: expected an integer from 0 to 1,000,000"
    assert fourth.startswith(
        "grove.toml:11: [roles] broadcast: no installed plugin is called 'murmer'; did you mean 'murmur'?"
    )
    assert fifth == (
        "grove.toml:14: [plugins.murmur] sise = 7: unknown key; did you mean 'size'? (keys here: size, "
        "period, group)"
    )
    assert raised.value.exit_code == 6


def test_layers_from_weakest_to_strongest(here: Path):
    written(here, "[limits]\ndials = 2\ndial_burst = 2\nper_ip = 2\nconnections = 902", "mine.toml")
    file = written(here, 'profile = "mine.toml"\n[limits]\ndial_burst = 3\nper_ip = 3\nconnections = 903')
    environ = {"GROVE_LIMITS__PER_IP": "4", "GROVE_LIMITS__CONNECTIONS": "904"}
    found = load(file=file, environ=environ, sets=["limits.connections=905"])
    found.check()
    limits = found.limits
    assert limits.inbound_pending == Limits().inbound_pending
    assert (limits.dials, limits.dial_burst, limits.per_ip, limits.connections) == (2, 3, 4, 905)
    history = found.history(("limits", "connections"))
    assert [setting.value for setting in history] == [902, 903, 904, 905]
    assert [str(setting.origin) for setting in history] == [
        "mine.toml:5",
        "grove.toml:5",
        "environment GROVE_LIMITS__CONNECTIONS",
        "--set limits.connections",
    ]
    assert [setting.origin.layer for setting in history] == [
        "profile mine.toml",
        "file",
        "environment",
        "flag",
    ]


def test_a_flag_of_its_own_is_stronger_than_set(here: Path):
    found = load(environ={}, sets=["node.data=/set"], flags=[("--data", "node.data", "/flag")])
    assert found.settings.data == "/flag"
    assert str(found.origin(("node", "data"))) == "--data"


@pytest.mark.parametrize(
    ("sets", "listen"),
    [
        ([], ("/ip4/127.0.0.1/tcp/1",)),  # nobody replaces it
        (["node.listen=[]"], ()),  # arrays are replaced, not joined
        (['node.listen=["/ip4/127.0.0.1/tcp/2"]'], ("/ip4/127.0.0.1/tcp/2",)),
    ],
)
def test_tables_merge_by_key_and_arrays_are_replaced(here: Path, sets, listen):
    file = written(here, '[node]\nlisten = ["/ip4/127.0.0.1/tcp/1"]\nnetwork = "home"')
    found = load(file=file, environ={}, sets=sets)
    assert found.settings.listen == listen
    assert found.settings.network == "home"


def test_a_scalar_replaces_a_table_and_a_table_a_scalar(shelf: Shelf):
    found = config.Configuration("none")
    found.add(Layer({"a": {"b": {"c": 1}}, "d": 1}, Origin("file", "one", rank=1)))
    found.add(Layer({"a": {"b": 2}, "d": {"e": 3}}, Origin("file", "two", rank=2)))
    assert found.value(("a", "b")) == 2
    assert found.value(("d",)) == {"e": 3}
    assert found.value(()) == {"a": {"b": 2}, "d": {"e": 3}}


def test_environment_values_are_toml_or_else_text_and_text_stays_text_where_text_is_wanted(shelf: Shelf):
    shelf.install("my-flood", my_flood=shelf.protocol("my-flood"))
    environ = {
        "GROVE_NODE__NETWORK": "42",
        "GROVE_ROLES__BROADCAST": "my-flood",
        "GROVE_ROLES__TRANSPORT": "[]",
        "GROVE_ROLES__SERVICE": "[]",
        "GROVE_ROLES__MEMBERSHIP": "[]",
        "GROVE_PLUGINS__MY_FLOOD__PERIOD": "2",
        "GROVE_TRACE_HOOKS": "0",
        "GROVEL__X": "1",
    }
    plan = assemble(load(environ=environ))
    assert plan.settings.network == "42"
    assert plan.parts[0].config.period == 2.0


def test_short_variables_choose_the_profile_and_the_data_folder(here: Path):
    found = load(environ={"GROVE_PROFILE": "lan", "GROVE_DATA": "/srv/grove"})
    assert (found.profile, found.settings.data) == ("lan", "/srv/grove")
    assert load("simulation", environ={"GROVE_PROFILE": "lan"}).profile == "simulation"


def test_a_variable_that_is_no_setting_is_told_and_an_empty_short_one_is_none(here: Path):
    environ = {"GROVE_LIMITS__": "1", "GROVE_A" + "__B" * 2000: "1", "GROVE_PROFILE": ""}
    found = load(environ=environ)
    assert found.profile == "residential"
    for said in problems(found):
        assert said.endswith(": expected GROVE_TABLE__KEY: no part empty, at most 16 parts")


def test_a_profile_extends_one_parent_and_a_circle_prints_its_chain(here: Path):
    written(here, 'extends = "b.toml"\n[limits]\ndials = 1', "a.toml")
    written(here, 'extends = "lan"\n[limits]\ndials = 2\nper_ip = 3', "b.toml")
    found = load("a.toml", environ={})
    found.check()
    assert found.chain[:3] == ("a.toml", "b.toml", "lan")
    assert (found.limits.dials, found.limits.per_ip) == (1, 3)

    written(here, 'extends = "a.toml"', "b.toml")
    assert problems(load("a.toml", environ={})) == (
        "b.toml:1: extends = 'a.toml': profiles go in a circle: a.toml → b.toml → a.toml",
    )


def test_an_unknown_profile_is_told_where_it_was_asked_for(here: Path):
    file = written(here, '# mine\nprofile = "residental"')
    (said,) = problems(load(file=file, environ={}))
    assert said.startswith(
        "grove.toml:2: profile = 'residental': no such profile; did you mean 'residential'?"
    )
    (said,) = problems(load("supper-peer", environ={}))
    assert said.startswith(
        "--profile: profile = 'supper-peer': no such profile; did you mean 'super-peer'?"
    )


def test_a_plugin_ships_profiles_under_its_own_name(shelf: Shelf, tmp_path: Path):
    path = written(tmp_path, 'extends = "lan"\n[limits]\ndials = 77', "farm.toml")
    source = shelf.protocol("lighthouse") + (
        "\nfrom pathlib import Path\n@hookimpl\ndef grove_profiles():\n"
        f"    return [ProfileSpec('farm', Path({str(path)!r}))]\n"
    )
    shelf.install("lighthouse", lighthouse=source)
    found = load("lighthouse/farm", environ={})
    found.check()
    assert found.limits.dials == 77
    assert problems(load("lighthouse/form", environ={}))[0].endswith(
        "no such profile; did you mean 'lighthouse/farm'? (there are: lighthouse/farm)"
    )


def test_a_mistake_in_a_profile_cites_the_profile(here: Path):
    written(here, 'extends = "lan"\n\n[limits]\ndails = 1', "mine.toml")
    file = written(here, 'profile = "mine.toml"')
    (said,) = problems(load(file=file, environ={}))
    assert said.startswith("mine.toml:4: [limits] dails = 1: unknown key; did you mean 'dials'?")


def test_what_a_struct_refuses_as_a_whole_is_told_at_the_field_it_names(here: Path, shelf: Shelf):
    check = "    def __post_init__(self):\n        if self.size > self.period:\n"
    check += (
        "            raise ValueError(f'size {self.size} exceeds period {self.period}')\n\nclass Quiet("
    )
    shelf.install("odd", odd=shelf.protocol("odd").replace("class Quiet(", check, 1))
    file = written(here, "[plugins.odd]\n\nsize = 30\n[roles]\nbroadcast = 'odd'\nmembership = []")
    with pytest.raises(ConfigError) as raised:
        assemble(load("simulation", file=file, environ={}))
    assert raised.value.problems == ("grove.toml:3: [plugins.odd]: size 30 exceeds period 10.0",)


def test_contradicting_limits_are_told_at_the_one_set_last(here: Path):
    file = written(here, "[limits]\nlow_water = 50\nhigh_water = 40")
    assert problems(load(file=file, environ={}))[0].startswith(
        "grove.toml:3: [limits] high_water = 40: low_water = 50 is above high_water = 40"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits\n", "grove.toml:1: not a TOML file: "),
        ('profile = "lan"\n\nx = = 3\n', "grove.toml:3: not a TOML file: Invalid value"),
        ("node = 3", "grove.toml:1: node = 3: expected a table, [node]"),
        ("plugins = 3", "grove.toml:1: plugins = 3: expected tables, [plugins.<name>]"),
        (
            "[plugins]\nlibp2p = 3",
            "grove.toml:2: [plugins] libp2p = 3: expected a table, [plugins.libp2p]",
        ),
        ("[rolls]\n", "grove.toml:1: rolls: unknown key; did you mean 'roles'?"),
        (
            "[limits]\nidle = nan",
            "grove.toml:2: [limits] idle = nan: expected a number above 0 and at most 86,400",
        ),
        (
            "[limits]\ndials_per_second = inf",
            "[limits] dials_per_second = inf: expected a number above 0",
        ),
        ("[limits]\ndials = true", "[limits] dials = true: expected an integer from 1 to 1,024"),
        ("[node]\nlisten = ['a', 3]", "[node] listen = ['a', 3]: expected a list of text at [1]"),
        ("[node]\ndata = { x = 1 }", "grove.toml:2: [node] data: expected text"),
        ("profile = 3", "grove.toml:1: profile = 3: expected the name of a profile"),
        ("a." * 40 + "b = 1", "not a TOML file: values nested deeper than 16"),
        ("x = " + "[" * 5000, "not a TOML file: "),
        ("x = " + "9" * 5000, "not a TOML file: "),
    ],
)
def test_each_kind_of_mistake_in_words(here: Path, text: str, said: str):
    found = problems(load(file=written(here, text), environ={}))
    assert any(said in one for one in found), found


def test_a_file_that_cannot_be_read_or_is_too_long_is_a_mistake_too(here: Path):
    assert problems(load(file=here / "none.toml", environ={}))[0].startswith(
        "none.toml: cannot be read: No such"
    )
    file = written(here, "#" * (MAX_FILE + 1))
    assert "longer than 262,144 bytes" in problems(load(file=file, environ={}))[0]
    file.write_bytes(b'a = 1\nb = "\xff"')
    assert problems(load(file=file, environ={}))[0] == "grove.toml:2: not a TOML file: not UTF-8"


@pytest.mark.parametrize("text", ["x", "=3", "a b=3", "roles..x=3", "a\nb=3", "", "a." * 20 + "b=1"])
def test_a_set_without_key_and_value_is_told(text: str):
    (said,) = problems(load(environ={}, sets=[text]))
    assert said.endswith("expected KEY=VALUE, as roles.broadcast=flood")


def test_a_value_of_set_cannot_smuggle_in_other_keys():
    found = load(environ={}, sets=["node.network=1\nx = 2"])
    found.check()
    assert found.settings.network == "1\nx = 2"


@pytest.mark.parametrize("name", [name for name in config.profiles() if name != "base"])
def test_every_shipped_profile_is_right(name: str):
    found = load(name, environ={})
    found.check()
    assert found.chain[-1] == "base"


@pytest.mark.claim("config.any-bytes")
def test_any_bytes_at_all_give_settings_or_problems_and_nothing_else():
    seed = random.SystemRandom().getrandbits(32)
    origin = Origin("file", "grove.toml", rank=100)
    for data in fuzz.mutations(seed, [DEFAULTS.read_bytes()[:600], FIVE.encode()], fuzz.rounds(1500)):
        found: list[Problem] = []
        try:
            layer = from_bytes(data, origin, found)
            result = config.Configuration("lan", problems=found)
            result.add(layer)
            result.settle()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data!r}") from error
        assert result.problems or isinstance(result.settings, Settings)


def test_words_for_what_a_field_expects():
    from typing import Annotated, Literal

    from msgspec import Meta

    assert describe(int) == "an integer"
    assert describe(Annotated[int, Meta(ge=1)]) == "an integer of at least 1"
    assert describe(Annotated[float, Meta(gt=0, lt=1)]) == "a number above 0 and below 1"
    assert describe(Annotated[float, Meta(le=2.5)]) == "a number of at most 2.5"
    assert describe(Literal["drop", "close"]) == "'close' or 'drop'"
    assert describe(tuple[Annotated[int, Meta(ge=1, le=9)], ...]) == "a list of integers from 1 to 9"
    assert describe(str | None) == "text or nothing"
    assert describe(dict[str, int]) == "a table"
    assert describe(bool) == "true or false"


def test_reading_a_configuration_imports_no_plugin(shelf: Shelf):
    shelf.install("bad", bad="raise SystemExit('imported')")
    found = load(environ={"GROVE_PLUGINS__BAD__X": "1"}, registry=Registry())
    assert found.value(("plugins", "bad")) == {"x": 1}
