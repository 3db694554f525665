"""`grove demo`: it runs, it cleans up, and it says ok only for what was seen."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from grove_core.cli.demo import LISTEN, Demo
from grove_core.cli.picture import Link, Scene, Seat, draw
from grove_core.cli.stage import Plain, Silent, verdict
from grove_core.cli.village import Fault, Home, Message, Village

BOUND = 90.0  # s; about 8 on an idle machine
DEMO = [sys.executable, "-m", "grove_core.cli", "demo"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder with a short path, watched for what is left in it."""
    with tempfile.TemporaryDirectory(prefix="grove-") as name:
        yield Path(name)


def processes(folder: Path) -> list[int]:
    """Nodes that have opened their doors below a folder."""
    notes = folder.glob("grove-demo-*/*/gateway/door.json")
    return [json.loads(note.read_text())["pid"] for note in notes]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# The whole of it


@pytest.mark.claim("demo.village")
def test_the_demo_sees_everything_it_promises_and_leaves_nothing(folder: Path) -> None:
    ran = subprocess.run(
        [*DEMO, "--json"],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        timeout=BOUND,
        check=False,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["ok"] is True
    assert result["nodes"] == 5
    assert result["published"] >= 15
    assert result["delivered"] == result["expected"] >= 60
    assert result["duplicates"] == 0
    assert result["killed"] == 1
    assert 0 < result["mended_s"] <= result["healed_s"]
    assert result["joined_late"] is True
    assert set(result["transports"]) == {"quic", "tcp"}
    claim = result["claim"]
    assert claim["holder"] == result["killed_node"] != claim["next_holder"]
    assert 0 < claim["token"] < claim["next_token"]
    assert f"(fence {claim['next_token']}, yours is {claim['token']})" in claim["old_result"]
    assert "Your result was not accepted." in claim["old_result"]
    assert result["ended_in_order"] is True
    assert list(folder.iterdir()) == []


@pytest.mark.claim("demo.leaves-nothing")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_and_no_file(folder: Path, number: int) -> None:
    with subprocess.Popen(
        DEMO, env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "one village" in line:  # all five are up
                break
        nodes = processes(folder)
        assert len(nodes) == 5
        demo.send_signal(number)
        demo.stdout.read()
        assert demo.wait(BOUND) == 130
    assert all(map(is_gone, nodes))
    assert list(folder.iterdir()) == []


# What counts as ok

GOOD = {
    "published": 3,
    "delivered": 12,
    "expected": 12,
    "duplicates": 0,
    "killed": "oak",
    "mended_s": 0.5,
    "healed_s": 1.0,
    "joined_late": True,
    "transports": {"quic": 3, "tcp": 2},
    "claim": {
        "holder": "oak",
        "token": 7,
        "next_holder": "ash",
        "next_token": 9,
        "taken_over_s": 2.5,
        "old_result": "Task bake-the-bread was taken over by agent ash.",
    },
}


def result_of(**seen: Any) -> dict[str, Any]:
    demo = Demo(Silent())
    demo.observed = {key: value for key, value in {**GOOD, **seen}.items() if value is not None}
    return demo._result("", 9.0, True)


@pytest.mark.claim("demo.honest")
def test_ok_is_computed_from_what_was_seen() -> None:
    assert result_of()["ok"] is True


@pytest.mark.claim("demo.honest")
@pytest.mark.parametrize(
    "seen",
    [
        {"delivered": 11},
        {"duplicates": 1},
        {"published": 0, "delivered": 0, "expected": 0},
        {"healed_s": None},
        {"killed": None},
        {"joined_late": False},
        {"transports": {"tcp": 5}},
        {"claim": None},
        {"claim": {**GOOD["claim"], "next_token": 7}},  # type: ignore[dict-item]
        {"claim": {**GOOD["claim"], "old_result": None}},  # type: ignore[dict-item]
    ],
)
def test_anything_missing_is_not_ok(seen: dict[str, Any]) -> None:
    result = result_of(**seen)
    assert result["ok"] is False
    assert "did not go as it should" in verdict(result).plain


# The village


def home(name: str, *neighbors: str) -> Home:
    made = Home(name, Path(name))
    made.peer, made.is_alive = name, True
    made.rows = [{"peer": peer, "neighbor": True, "transport": "tcp"} for peer in neighbors]
    return made


def village(*homes: Home) -> Village:
    made = Village()
    made.homes = {home.name: home for home in homes}
    return made


def test_a_village_is_one_when_all_hang_together_with_enough_living_neighbours() -> None:
    ring = (home("a", "b", "c"), home("b", "a", "c"), home("c", "a", "b"))
    assert village(*ring).is_one(2)
    assert not village(*ring).is_one(3)
    assert not village(home("a", "b"), home("b", "a"), home("c", "d"), home("d", "c")).is_one(1)
    assert not village(home("a", "b"), home("b", "a"), home("c")).is_one(1)


def test_a_village_that_counts_on_the_dead_is_not_whole() -> None:
    made = village(home("a", "b", "c"), home("b", "a", "c"), home("c", "a", "b"))
    made.homes["c"].is_alive = False
    assert not made.is_one(1)
    for survivor in ("a", "b"):
        made.homes[survivor].rows.pop()
    assert made.is_one(1)


def test_a_message_is_expected_at_all_who_listened_but_its_author_and_the_killed() -> None:
    async def main() -> None:
        made = village(home("a"), home("b"), home("c"))
        made.messages["m"] = Message("a", {"b", "c"})
        made._heard(made.homes["b"], {"id": "m"})
        made._heard(made.homes["a"], {"id": "m"})  # its own, as the author's node tells it
        assert (made.delivered, made.expected) == (1, 2)
        made.homes["c"].kill = killed  # type: ignore[method-assign]
        await made.kill(made.homes["c"])
        assert (made.delivered, made.expected) == (1, 1)
        assert made.is_whole("m")
        made._heard(made.homes["b"], {"id": "m"})
        assert made.duplicates == 1

    async def killed() -> None:
        pass

    asyncio.run(main())


def test_a_node_that_does_not_start_is_told_in_its_own_words_and_nothing_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    async def main() -> None:
        async with asyncio.timeout(BOUND), Village() as made:
            await made.settle("oak", "--set", "limits.conections=1")

    with pytest.raises(Fault, match=r"oak did not start: (.|\n)*connections"):
        asyncio.run(main())
    assert list(folder.iterdir()) == []


def test_one_home_that_does_not_start_calls_off_the_others_and_is_not_ok(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("grove_core.cli.demo.RESIDENTS", (("ash", "quic"), ("birch", "bad")))
    monkeypatch.setitem(LISTEN, "bad", "/ip4/127.0.0.1/sctp/0")
    stage = Silent()

    async def main() -> dict[str, Any]:
        async with asyncio.timeout(BOUND):
            return await Demo(stage).run()

    monkeypatch.setattr(Demo, "_contact", staticmethod(lambda oak, kind: oak.addrs[0]))
    result = asyncio.run(main())
    assert result["ok"] is False
    assert "birch did not start" in result["problem"]
    assert list(folder.iterdir()) == []


def test_waiting_in_vain_says_who_counts_on_whom() -> None:
    async def main() -> None:
        await village(home("a", "b"), home("b")).until(lambda: False, 0.01, "peace")

    with pytest.raises(Fault, match=r"peace: not so within 0.01 s \(a: b; b: nobody\)"):
        asyncio.run(main())


# The picture


def scene() -> Scene:
    made = Scene([Seat(name, name == "oak", "up") for name in ("oak", "ash", "birch")], ["talk", "done"])
    made.links = {
        ("oak", "ash"): Link("quic", "eager"),
        ("ash", "oak"): Link("quic", "lazy"),
        ("oak", "birch"): Link("tcp", "eager"),
        ("birch", "ash"): Link("tcp", "lazy"),
    }
    return made


def printed(made: Scene, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(draw(made, width))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_picture_fits_a_terminal(width: int) -> None:
    made = scene()
    for number in range(60):
        made.say(f"a line of the feed that is longer than the picture is wide, number {number} " * 3)
    lines = printed(made, width)
    assert len(lines) == 22
    assert {len(line) for line in lines} == {width}


def test_the_matrix_tells_transport_and_kind_without_colour() -> None:
    text = "\n".join(printed(scene(), 80))
    assert "oak     ·   Q   T" in text
    assert "ash     q   ·" in text
    assert "birch       t   ·" in text


def test_a_dead_node_is_marked_and_an_absent_one_is_not_in_the_matrix() -> None:
    made = scene()
    made.seats[1].state = "dead"
    made.seats[2].state = "absent"
    text = "\n".join(printed(made, 80))
    assert "✖ ash" in text
    assert "○ birch" in text
    assert "bir" not in text.replace("○ birch", "")


def test_a_pipe_without_unicode_is_no_reason_to_die(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from grove_core.cli.stage import Plain; Plain().keep('✓')"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=BOUND,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert b"grove demo" in ran.stdout


def test_the_plain_stage_speaks_in_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Plain().say("a sentence that is longer than the eighty columns of a terminal that is not there " * 2)
    assert len(capsys.readouterr().out.splitlines()) == 1
