"""`grove up` as a program sees it: lines, signals, and the verbs on real nodes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grove_core.cli import main
from grove_core.cli.telling import BACKLOG, Lines

BOUND = 30.0  # s; a node listens after half a second
QUIC, TCP = "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"


class Up:
    """A `grove up --json` of one's own."""

    def __init__(self, data: Path, *args: str) -> None:
        self.data = data
        env = {key: value for key, value in os.environ.items() if not key.startswith("GROVE_")}
        (data / "empty.toml").touch()
        common = ["--data", str(data), "--config", str(data / "empty.toml")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grove_core.cli", "up", "--json", *common, *args],
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def until(self, event: str) -> dict[str, Any]:
        """The next line of this event; the test's own bound ends a vain wait."""
        while (line := self.line())["event"] != event:
            pass
        return line

    def __call__(self, *args: str) -> int:
        return main([*args, "--data", str(self.data)])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, and read its last lines. Killed if it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.communicate(timeout=BOUND)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        return self.process.returncode


@pytest.fixture
def up() -> Iterator[Any]:
    started: list[Up] = []
    with tempfile.TemporaryDirectory(prefix="grove-") as folder:

        def start(*args: str) -> Up:
            data = Path(folder) / str(len(started))
            data.mkdir()
            started.append(Up(data, *args))
            return started[-1]

        yield start
        for one in started:
            one.end()


@pytest.mark.claim("up.json-lines")
def test_the_first_line_says_who_listens_where(up: Any) -> None:
    one = up("--listen", QUIC, "--listen", TCP)
    first = one.line()
    assert first["event"] == "listening"
    assert first["peer_id"].startswith("12D3KooW")
    assert len(first["addrs"]) == 2
    for address, kind in zip(sorted(first["addrs"]), ("/tcp/", "/udp/"), strict=True):
        assert kind in address
        assert address.endswith(f"/p2p/{first['peer_id']}")
        assert "/0/" not in address  # port 0 is resolved


@pytest.mark.claim("up.signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_with_exit_code_0(up: Any, number: int) -> None:
    one = up("--listen", TCP)
    one.line()
    assert one.end(number) == 0
    assert list((one.data / "gateway").iterdir()) == []  # the door is closed, not broken off


def test_a_reader_that_leaves_ends_it_at_the_next_line(up: Any) -> None:
    one = up("--listen", TCP)
    first = one.line()
    one.process.stdout.close()
    up("--listen", TCP, "--peer", first["addrs"][0])
    assert one.process.wait(BOUND) == 0


def test_a_wrong_configuration_is_exit_code_6_and_starts_nothing(
    up: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    one = up("--set", "limits.conections=1", "--listen", "nonsense")
    out, _ = one.process.communicate(timeout=BOUND)
    assert one.process.returncode == 6
    told = capfd.readouterr().err
    assert "connections" in told  # the nearest valid key
    assert "listening" not in out
    assert not (one.data / "gateway").exists()


def test_two_nodes_meet_and_every_verb_works_on_them(up: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one = up("--listen", QUIC)
    first = one.line()
    two = up("--listen", TCP, "--profile", "super-peer")
    second = two.line()

    assert one("ticket") == 0
    ticket = capsys.readouterr().out.strip()
    assert two("join", ticket) == 0
    assert "joined through" in capsys.readouterr().out
    met = one.until("connected")
    assert (met["peer"], met["transport"], met["inbound"]) == (second["peer_id"], "quic", True)
    assert one.until("neighbor_up")["peer"] == second["peer_id"]
    two.until("neighbor_up")

    assert two("peers", "--json") == 0
    row = json.loads(capsys.readouterr().out)["peers"][0]
    assert row["peer"] == first["peer_id"]
    assert (row["path"], row["transport"], row["link"]) == ("loopback", "quic", "eager")
    assert row["agent"].startswith("grove")
    assert two("ping", first["peer_id"][-4:], "-c", "2") == 0
    assert "loopback" in capsys.readouterr().out
    assert one("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["transports"] == {"quic": 1}

    heard: list[int] = []
    listening = threading.Thread(target=lambda: heard.append(one("sub", "village", "-n", "1", "--json")))
    listening.start()
    while not listening_to(one, "village", capsys):
        pass
    assert two("pub", "village", "hello") == 0
    listening.join(BOUND)
    assert heard == [0]
    told = one.until("delivered")
    assert (told["topic"], told["data"], told["author"]) == ("village", "hello", second["peer_id"])

    assert two("disconnect", first["peer_id"]) == 0
    assert one.until("disconnected")["peer"] == second["peer_id"]


@pytest.mark.claim("gossipsub.by-two-settings")
def test_pool_and_gossipsub_are_two_settings_away(up: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The hub is dialled by one that was told of it and joined by another with its ticket."""
    chosen = ("--set", "roles.membership=pool", "--set", "roles.broadcast=gossipsub")
    hub = up("--listen", QUIC, *chosen)
    first = hub.line()
    told = up("--listen", TCP, *chosen, "--peer", first["addrs"][0])
    joined = up("--listen", QUIC, *chosen)
    others = [told.line()["peer_id"], joined.line()["peer_id"]]
    assert hub("ticket") == 0
    assert joined("join", capsys.readouterr().out.strip()) == 0
    assert "joined through" in capsys.readouterr().out
    assert {hub.until("neighbor_up")["peer"] for _ in others} == set(others)

    listening = threading.Thread(target=lambda: hub("sub", "village", "-n", "2", "--json"))
    listening.start()
    while not listening_to(hub, "village", capsys):
        pass
    while listening.is_alive():  # until both have heard that somebody listens
        assert told("pub", "village", "from the one who was told") == 0
        assert joined("pub", "village", "from the one who joined") == 0
        listening.join(0.2)
    authors = set()
    while len(authors) < 2:
        authors.add(hub.until("delivered")["author"])
    assert authors == set(others)
    capsys.readouterr()
    assert joined("peers", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["peers"]
    assert (row["peer"], row["transport"]) == (first["peer_id"], "quic")


@pytest.mark.claim("gateway.not-running")
def test_a_verb_that_waits_ends_with_3_when_its_node_is_killed(
    up: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    one = up("--listen", TCP)
    one.line()
    ended: list[int] = []
    listening = threading.Thread(target=lambda: ended.append(one("sub", "village")))
    listening.start()
    while not listening_to(one, "village", capsys):
        pass
    one.process.kill()
    listening.join(BOUND)
    assert ended == [3]
    assert one("status") == 3
    assert f"(process {one.process.pid}) is gone" in capsys.readouterr().err


def listening_to(node: Up, topic: str, capsys: pytest.CaptureFixture[str]) -> bool:
    node("status", "--json")
    lines = capsys.readouterr().out.splitlines()
    return any(topic in json.loads(line).get("topics", ()) for line in lines)


@pytest.mark.claim("up.next-command")
def test_people_see_who_they_are_where_they_listen_and_what_to_type_next(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    args = ["--config", str(tmp_path / "empty.toml"), "--data", str(tmp_path), "--listen", TCP]
    with subprocess.Popen(
        [sys.executable, "-m", "grove_core.cli", "up", *args], stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        shown = {}
        while "grove peers" not in (line := one.stdout.readline()):
            name, _, text = line.rstrip("\n").partition(" ")
            shown[name] = text.strip()
        one.send_signal(signal.SIGINT)
        assert one.stdout.read().startswith("stopped")
        assert one.wait(BOUND) == 0
    assert shown["identity"].startswith("12D3KooW")
    assert "profile residential" in shown["network"]
    assert shown["listening"].startswith("/ip4/127.0.0.1/tcp/")
    assert "grove join grove1" in shown["next"]


# The lines


class Stuck(io.StringIO):
    """A reader that does not read until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.go.wait(BOUND)
        return super().write(text)


@pytest.mark.claim("up.never-waits")
def test_a_reader_that_does_not_read_costs_a_bounded_queue_and_nobody_waits() -> None:
    stream = Stuck()
    lines = Lines(stream, lambda: None)
    assert lines.put("first")
    assert stream.reached.wait(BOUND)  # taken from the queue, stuck in the pipe
    taken = [lines.put(f"line {number}") for number in range(BACKLOG + 10)]
    assert taken.count(False) == 10
    assert lines.missed == 10
    stream.go.set()
    lines._thread.join(0)
    lines.close()
    written = stream.getvalue().splitlines()
    assert written[0] == "first"
    assert written[-1] == f"line {BACKLOG - 1}"
