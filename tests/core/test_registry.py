"""Entry points to plugins to a plan: isolation, duplicates, the hook API, capabilities, hosts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from grove_core import config
from grove_core.errors import ConfigError, PluginError
from grove_core.registry import Duplicate, Registry, WrongApi, assemble
from tests.core.installing import Shelf

EMPTY = (
    "roles.transport=[]",
    "roles.discovery=[]",
    "roles.membership=[]",
    "roles.broadcast=[]",
    "roles.storage=[]",
    "roles.consensus=[]",
    "roles.service=[]",
)


def configured(*sets: str) -> config.Configuration:
    """No roles but those that `sets` fill; the environment is empty."""
    return config.load(sets=(*EMPTY, *sets), environ={})


def test_a_chosen_plugin_becomes_a_part_with_its_own_configuration(shelf: Shelf):
    shelf.install("murmur", murmur=shelf.protocol("murmur"))
    plan = assemble(configured("roles.broadcast=murmur", "plugins.murmur.size=7"))
    (part,) = plan.parts
    assert (part.spec.name, part.spec.role, part.config.size, part.config.period) == (
        "murmur",
        "broadcast",
        7,
        10.0,
    )
    assert part.build() is not part.build()


def test_parts_stand_in_the_order_of_roles_not_of_the_file(shelf: Shelf):
    for role in ("consensus", "storage", "broadcast", "membership", "discovery"):
        shelf.install(f"dist-{role}", **{f"p_{role}": shelf.protocol(f"p-{role}", role)})
    roles = ("consensus", "storage", "broadcast", "membership", "discovery")
    plan = assemble(configured(*(f"roles.{role}=p-{role}" for role in roles)))
    assert [part.spec.role for part in plan.parts] == list(reversed(roles))


def test_only_what_the_profile_asks_for_is_imported(shelf: Shelf):
    shelf.install("chosen", chosen=shelf.protocol("chosen"))
    shelf.install("idle", idle="raise SystemExit('nobody asked for me')")
    assert len(assemble(configured("roles.broadcast=chosen")).parts) == 1
    assert not [name for name in sys.modules if name.startswith("idle_idle_")]


@pytest.mark.claim("registry.isolation")
@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (
            "import torch_of_another_world",
            "ModuleNotFoundError: No module named 'torch_of_another_world'",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_raises_on_import_leaves_everything_else_working(shelf: Shelf, source, cause):
    shelf.install("bad", "0.3", bad=source)
    shelf.install("good", good=shelf.protocol("good"))
    assert len(assemble(configured("roles.broadcast=good")).parts) == 1
    found = {one.name: one for one in Registry().survey()}
    assert found["good"].state == "ok"
    assert found["bad"].state == "broken"
    assert "plugin 'bad' (bad 0.3) failed while importing" in found["bad"].cause
    assert cause in found["bad"].cause
    with pytest.raises(PluginError, match="failed while importing") as raised:
        assemble(configured("roles.broadcast=bad"))
    assert raised.value.exit_code == 7
    assert str(raised.value).startswith("--set roles.broadcast: [roles] broadcast: ")


@pytest.mark.claim("registry.duplicate")
def test_two_distributions_with_one_name_are_an_error_that_names_both(shelf: Shelf):
    shelf.install("first-dist", "1.0", echo=shelf.protocol("echo"))
    shelf.install("second-dist", "2.0", echo=shelf.protocol("echo"))
    with pytest.raises(Duplicate, match=r"first-dist 1.0 \(.*\), second-dist 2.0 \(.*\); uninstall one"):
        Registry().load("echo")
    (found,) = [one for one in Registry().survey() if one.name == "echo"]
    assert found.state == "duplicate"
    assert [offer.distribution for offer in found.offers] == ["first-dist", "second-dist"]


@pytest.mark.claim("registry.api")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("GROVE_API = 2", "speaks hook API 2, this Grove speaks 1; upgrade grove-node"),
        ("GROVE_API = 0", "speaks hook API 0, this Grove speaks 1; upgrade old"),
        ("", "does not say which hook API it speaks; GROVE_API = 1 belongs in old_old_"),
    ],
)
def test_another_hook_api_is_refused_with_the_way_out(shelf: Shelf, line, said):
    shelf.install("old", old=shelf.protocol("old").replace("GROVE_API = 1", line))
    with pytest.raises(WrongApi, match=r"plugin 'old' \(old 0.1\) ") as raised:
        Registry().load("old")
    assert said in str(raised.value)
    (found,) = [one for one in Registry().survey() if one.name == "old"]
    assert found.state == "wrong api"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('name="odd"', 'name="even"'), "grove_broadcast gave a spec named 'even'; expected 'odd'"),
        (('role="broadcast"', 'role="storage"'), "grove_broadcast gave a spec of role 'storage'"),
        (("return [", "return [4] or ["), "grove_broadcast gave 4; expected a ProtocolSpec"),
        (("size: Annotated[int, Meta(ge=1, le=64)]", "size: 'Nowhere'"), "NameError: name 'Nowhere'"),
        (("config=Config", "config=int"), "its config <class 'int'> is not a msgspec.Struct class"),
        (("def grove_broadcast(", "def grove_brodcast("), "grove_brodcast"),
    ],
)
def test_an_unsound_plugin_is_refused_whole(shelf: Shelf, change, said):
    shelf.install("odd", odd=shelf.protocol("odd").replace(*change))
    registry = Registry()
    with pytest.raises(PluginError, match=r"plugin 'odd' \(odd 0.1\) was refused: ") as raised:
        registry.load("odd")
    assert said in str(raised.value)
    assert not registry.manager.has_plugin("odd")


def test_an_unknown_plugin_is_told_with_the_nearest_installed_one(shelf: Shelf):
    shelf.install("murmur", murmur=shelf.protocol("murmur"))
    with pytest.raises(ConfigError) as raised:
        assemble(configured("roles.broadcast=murmer", "plugins.murmour.size=3"))
    roles, table = raised.value.problems
    said = "no installed plugin is called 'murmer'; did you mean 'murmur'? (installed: "
    assert roles.startswith(f"--set roles.broadcast: [roles] broadcast: {said}")
    assert table.startswith("--set plugins.murmour.size: [plugins] murmour: no installed plugin")


def test_a_plugin_in_a_role_it_does_not_play_is_a_mistake_of_the_configuration(shelf: Shelf):
    shelf.install("murmur", murmur=shelf.protocol("murmur"))
    with pytest.raises(ConfigError, match="does not play membership; it plays broadcast"):
        assemble(configured("roles.membership=murmur"))


@pytest.mark.claim("registry.capabilities")
def test_an_unmet_capability_is_named_with_who_would_offer_it(shelf: Shelf):
    shelf.install("needy", needy=shelf.protocol("needy", more='requires=frozenset({"moonlight"})'))
    shelf.install(
        "moon", "0.9", moon=shelf.protocol("moon", "membership", more='provides=frozenset({"moonlight"})')
    )
    with pytest.raises(ConfigError) as raised:
        assemble(configured("roles.broadcast=needy"))
    (problem,) = raised.value.problems
    assert problem.endswith(
        "plugin 'needy' needs 'moonlight', which no chosen plugin provides; "
        "plugin 'moon' (moon 0.9) would"
    )
    assert len(assemble(configured("roles.broadcast=needy", "roles.membership=moon")).parts) == 2


def test_what_a_broken_plugin_would_have_provided_is_not_told_as_a_mistake(shelf: Shelf):
    shelf.install("needy", needy=shelf.protocol("needy", more='requires=frozenset({"moonlight"})'))
    shelf.install("bad", bad="1 / 0")
    with pytest.raises(PluginError) as raised:
        assemble(configured("roles.broadcast=needy", "roles.membership=bad"))
    assert "moonlight" not in str(raised.value)


def test_an_empty_role_is_nobody(shelf: Shelf):
    assert assemble(configured("roles.broadcast=", "roles.membership=''")).parts == ()


@pytest.mark.claim("registry.domains")
def test_two_plugins_may_not_sign_in_overlapping_domains(shelf: Shelf):
    shelf.install("one", one=shelf.protocol("one", more='domain=b"village/"'))
    shelf.install("two", two=shelf.protocol("two", "storage", more='domain=b"village/two/"'))
    shelf.install("far", far=shelf.protocol("far", "storage", more='domain=b"valley/"'))
    with pytest.raises(PluginError, match="'one' and 'two' sign in overlapping domains"):
        assemble(configured("roles.broadcast=one", "roles.storage=two"))
    assert assemble(configured("roles.broadcast=one", "roles.storage=far"))


@pytest.mark.claim("registry.hosts")
def test_a_hosting_plugin_gets_the_parts_its_table_names_and_they_theirs(shelf: Shelf):
    hosts = 'hosts={"group": "consensus"}'
    shelf.install("tree", tree=shelf.protocol("tree", "consensus", guest="branch", more=hosts))
    shelf.install("branch", branch=shelf.protocol("branch", "consensus", guest="leaf", more=hosts))
    shelf.install("leaf", leaf=shelf.protocol("leaf", "consensus"))
    plan = assemble(configured("roles.consensus=tree", "plugins.leaf.size=9"))
    (part,) = plan.parts
    machine = part.build()
    assert machine.hosted["group"].spec.name == "branch"
    assert machine.hosted["group"].hosted["group"].config.size == 9
    assert machine.hosted["group"].build().hosted["group"].spec.name == "leaf"

    with pytest.raises(ConfigError, match="plugins host each other in a circle: tree → branch → tree"):
        assemble(configured("roles.consensus=tree", "plugins.branch.group=tree"))
    with pytest.raises(
        ConfigError, match=r"\[plugins.tree\] group: no installed plugin is called 'brunch'"
    ):
        assemble(configured("roles.consensus=tree", "plugins.tree.group=brunch"))
    with pytest.raises(ConfigError, match="expected the name of a consensus plugin to host, got ''"):
        assemble(configured("roles.consensus=tree", "plugins.tree.group=''"))


def test_mistakes_in_the_configuration_are_told_before_and_with_those_of_plugins(shelf: Shelf):
    shelf.install("bad", bad="1 / 0")
    shelf.install("good", good=shelf.protocol("good"))
    with pytest.raises(ConfigError) as raised:
        assemble(
            configured(
                "roles.broadcast=bad",
                "roles.storage=nobody",
                "roles.membership=good",
                "plugins.good.size=0",
            )
        )
    assert len(raised.value.problems) == 4


def test_nothing_is_a_module_global_so_two_registries_do_not_meet(shelf: Shelf):
    shelf.install("murmur", murmur=shelf.protocol("murmur"))
    one, other = Registry(), Registry()
    one.load("murmur")
    assert one.manager.has_plugin("murmur")
    assert not other.manager.has_plugin("murmur")


def test_a_life_cycle_hook_reaches_the_loaded_plugins_and_can_be_traced(
    shelf: Shelf, monkeypatch, capsys
):
    monkeypatch.setenv("GROVE_TRACE_HOOKS", "1")
    source = shelf.protocol("murmur") + "\n@hookimpl\ndef grove_node_started(node):\n    node.append(1)\n"
    shelf.install("murmur", murmur=source)
    registry, node = Registry(), []
    registry.load("murmur")
    registry.hooks.grove_node_started(node=node)
    assert node == [1]
    said = capsys.readouterr().err
    assert "hook grove_broadcast() -> murmur" in said
    assert "hook grove_node_started(node=[]) -> murmur" in said


def test_looking_at_names_imports_no_plugin_and_no_heavy_library():
    code = (
        "import sys; from grove_core.registry import Registry; Registry().names(); "
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('aioquic', 'zmq', 'cryptography', 'loro', 'google', 'rich', 'asyncio') "
        "or (name.startswith('grove_') and not name.startswith('grove_core'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
