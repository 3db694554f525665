"""The verbs that talk to a running node, against one that pretends: outputs, JSON, exit codes."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grove_gateway.config import Config
from grove_gateway.driver import Gateway

from grove_core.cli import main
from grove_core.events import Delivered
from grove_core.identity import peer_text
from tests.plugins.gateway.fake_node import FakeNode, identity


class Running:
    """A fake node behind a real door, on a loop of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.node: FakeNode
        self._open = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._open.wait(10)

    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.node = FakeNode(self.data)
        gateway = Gateway(Config(), self.node)  # type: ignore[arg-type]
        await gateway.start()
        self._open.set()
        await self._end.wait()
        await gateway.stop()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def soon(self, act: Any, *values: Any) -> None:
        self.loop.call_soon_threadsafe(act, *values)

    def __call__(self, *args: str) -> int:
        return main([*args, "--data", str(self.data)])


@pytest.fixture
def grove() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="grove-") as folder:
        running = Running(Path(folder))
        yield running
        running.stop()


def peer(number: int) -> str:
    return peer_text(identity(number).peer)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    "args",
    [
        ("status",),
        ("id",),
        ("peers",),
        ("ping", "abcd"),
        ("pub", "t", "x"),
        ("sub", "t"),
        ("ticket",),
        ("join", "grove1-good"),
        ("connect", "/ip4/127.0.0.1/tcp/1"),
        ("disconnect", "abcd"),
    ],
)
@pytest.mark.claim("cli.not-running")
def test_every_verb_exits_3_at_once_when_no_node_runs(
    args: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*args, "--data", str(tmp_path)]) == 3
    assert f"grove up --data {tmp_path}" in capsys.readouterr().err


def test_status_is_one_screen(grove: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert grove("status") == 0
    shown = capsys.readouterr().out
    assert peer(1) in shown
    assert "profile residential" in shown
    assert "3 of at most 256" in shown
    assert "lan 1 · loopback 1 · relayed 1" in shown


def test_read_verbs_give_one_json_object_with_schema_and_version(
    grove: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("status", "id", "peers", "ticket"):
        assert grove(verb, "--json") == 0
        told = said(capsys)
        assert (told["schema"], told["version"]) == (f"grove.{verb}", 1)


@pytest.mark.claim("gateway.path")
def test_peers_shows_path_transport_link_and_why(
    grove: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert grove("peers") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["peer", "path", "transport", "rtt", "link", "agent", "since", "why"]
    assert "loopback  quic" in lines[1]
    assert "eager" in lines[1]
    assert "12.5 ms" in lines[1]
    assert "it dialled us at its private address" in lines[2]
    assert "relayed" in lines[3]
    assert grove("peers", "--json") == 0
    assert [row["peer"] for row in said(capsys)["peers"]] == [peer(2), peer(3), peer(4)]


@pytest.mark.claim("cli.ping-exit")
def test_ping_exits_0_direct_4_relayed_5_unreachable(
    grove: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grove("ping", peer(3), "-c", "2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert grove("ping", peer(4)[-4:]) == 4
    assert "relayed" in capsys.readouterr().out
    assert grove("ping", peer(77)) == 5
    assert "refused" in capsys.readouterr().err


def test_pub_sends_its_text_or_each_line_of_standard_input(
    grove: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert grove("pub", "village", "hello") == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("eins\nzwei ✓\r\nlast".encode())))
    assert grove("pub", "village", "--json") == 0
    ids = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert [int(name, 16) for name in ids] == [2, 3, 4]
    assert [data.decode() for _, data in grove.node.broadcast.published] == [
        "hello",
        "eins",
        "zwei ✓",
        "last",
    ]


@pytest.mark.claim("cli.safe-print")
def test_sub_prints_a_line_for_each_message_and_no_control_sequence(
    grove: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    subscribe = grove.node.broadcast.subscribe

    def speaking(topic: str) -> None:  # the village answers as soon as somebody listens
        subscribe(topic)
        for data in (b"hello", b"\xff\x1b[2J\n"):
            grove.soon(grove.node.emit, Delivered(topic, b"\xab" * 16, identity(3).peer, data, 2))

    grove.node.broadcast.subscribe = speaking  # type: ignore[method-assign]
    assert grove("sub", "village", "--count", "2") == 0
    author = f"{peer(3)[:4]}…{peer(3)[-4:]}"
    assert capsys.readouterr().out.splitlines() == [f"{author}  hello", f"{author}  \\xff\\x1b[2J\\n"]
    assert grove("sub", "village", "-n", "2", "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["data"], first["author"], first["hops"]) == ("hello", peer(3), 2)
    assert second["data_base64"] == "/xtbMkoK"
    assert [first["seq"], second["seq"]] == [1, 2]


def test_ticket_prints_nothing_but_the_ticket(grove: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert grove("ticket") == 0
    assert capsys.readouterr().out == "grove1-good\n"


def test_join_and_connect_say_how_the_peer_was_reached(
    grove: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grove("join", "grove1-good") == 0
    assert "joined through 12D3…" in capsys.readouterr().out
    assert grove("join", "rubbish") == 1
    assert "not a ticket" in capsys.readouterr().err
    assert grove("connect", peer(3)) == 0
    assert "lan · tcp · /ip4/192.168.1.7/tcp/4001" in capsys.readouterr().out
    assert grove("connect", peer(77)) == 5
    assert grove("disconnect", peer(3)) == 0
    assert grove("disconnect", peer(3)) == 0
    assert "there was no connection" in capsys.readouterr().out
