"""Scripts of gossipsub-interop, read and played by real nodes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from grove_gossipsub_interop import script
from grove_gossipsub_interop.player import Player, identity_of

from grove_core.errors import LocalProtocolError
from grove_core.identity import peer_text

NODES = 4
TOPIC = "a-subnet"


def only(node: int, instruction: dict[str, Any]) -> dict[str, Any]:
    return {"type": "ifNodeIDEquals", "nodeID": node, "instruction": instruction}


def written(*instructions: dict[str, Any]) -> script.Script:
    return script.read(json.dumps({"script": instructions}).encode())


def publish(number: int, size: int = 96 * 1024) -> dict[str, Any]:
    return {"type": "publish", "messageID": number, "messageSizeBytes": size, "topicID": TOPIC}


# Scripts


def test_a_nodes_part_is_what_all_do_and_what_it_alone_does_each_at_its_time() -> None:
    played = written(
        {"type": "subscribeToTopic", "topicID": TOPIC},
        {"type": "waitUntil", "elapsedSeconds": 30},
        only(1, publish(7, 16)),
        {"type": "waitUntil", "elapsedSeconds": 42},
        only(2, only(2, publish(8, 16))),
        {"type": "waitUntil", "elapsedSeconds": 60},
    )
    assert [(at, type(one).__name__) for at, one in played.of(1)] == [
        (0.0, "SubscribeToTopic"),
        (30.0, "Publish"),
    ]
    assert [at for at, _ in played.of(2)] == [0.0, 42.0]
    assert played.ends == 60.0
    assert played.of(2)[1][1].data == (8).to_bytes(8, "big") + bytes(8)


def test_gos_parameters_become_grove_s_settings() -> None:
    (at, init), *_ = written(
        only(0, {
            "type": "initGossipSub",
            "gossipSubParams": {
                "D": 8, "Dlazy": 0, "HeartbeatInitialDelay": 100_200_000, "HeartbeatInterval": 1e9,
                "Connectors": 8, "PruneBackoff": None,
            },
        })
    ).of(0)  # fmt: skip
    assert at == 0.0
    assert init.settings == {
        "degree": 8, "degree_lazy": 0, "heartbeat_start": 0.1002, "heartbeat": 1.0,
    }  # fmt: skip


def test_the_key_of_a_node_is_its_number() -> None:
    """Node 0 of go's, rust's and jvm's: an Ed25519 seed of zeros."""
    assert peer_text(identity_of(0).peer) == "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"", "no script"),
        (b"\xff", "no script"),
        (b'{"script": [{"type": "dance"}]}', r"script\[0\]"),
        (b'{"script": [{"type": "publish", "messageID": -1}]}', r"script\[0\]"),
        (
            b'{"script": [{"type": "publish", "messageID": 1, "messageSizeBytes": 7, "topicID": ""}]}',
            ">= 8",
        ),
        (
            b'{"script": [{"type": "initGossipSub", "gossipSubParams": {"FanoutTTL": "1 m"}}]}',
            "int | float",
        ),
        (b"[" * 5000, "no script"),
    ],
)
def test_what_is_no_script_is_refused_with_its_place(data: bytes, place: str) -> None:
    with pytest.raises(LocalProtocolError, match=place):
        script.read(data)


def test_broken_scripts_raise_one_error_and_nothing_else() -> None:
    good = json.dumps(
        {"script": [only(1, publish(7, 16)), {"type": "connect", "connectTo": [1]}]}
    ).encode()
    rng = random.Random(20261122)
    for _ in range(2000):
        broken = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        with contextlib.suppress(LocalProtocolError):
            script.read(bytes(broken)).of(1)


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "subscribeToTopic", "topicID": TOPIC, "partial": True},
        {"type": "addPartialMessage", "topicID": TOPIC, "groupID": 1, "parts": 255},
        {"type": "publishPartial", "topicID": TOPIC, "groupID": 1},
    ],
)
def test_partial_messages_are_refused_before_anything_starts(wanted: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match="partial messages"):
        written(wanted).of(0)


# Nodes


@pytest.mark.claim("interop.gossipsub-interop")
def test_four_nodes_play_subnet_blob_msg_and_each_message_reaches_everybody(tmp_path: Path) -> None:
    """The script of gossipsub-interop with four nodes, seconds in place of minutes, and 5 ms of work
    for each message of 96 KiB."""
    played = written(
        *(only(n, {"type": "initGossipSub", "gossipSubParams": {"HeartbeatInitialDelay": 1e8 + 1e5 * n}})
          for n in range(NODES)),
        {"type": "setTopicValidationDelay", "topicID": TOPIC, "delaySeconds": 0.005},
        *(only(n, {"type": "connect", "connectTo": list(range(n + 1, NODES))}) for n in range(NODES - 1)),
        {"type": "subscribeToTopic", "topicID": TOPIC},
        {"type": "waitUntil", "elapsedSeconds": 3},
        *(only(n, publish(10 + n)) for n in range(NODES)),
        {"type": "waitUntil", "elapsedSeconds": 6},
    )  # fmt: skip
    said = asyncio.run(_all_play(played, tmp_path))
    for number, lines in enumerate(said):
        assert lines[0]["msg"] == "PeerID"
        assert (lines[0]["id"], lines[0]["node_id"]) == (peer_text(identity_of(number).peer), number)
        heard = Counter(line["id"] for line in lines if line["msg"] == "Received Message")
        assert set(heard) >= {str(10 + other) for other in range(NODES) if other != number}
        assert all(line["topic"] == TOPIC for line in lines[1:])
        assert {line["from"] for line in lines[1:]} <= {
            peer_text(identity_of(other).peer) for other in range(NODES) if other != number
        }


async def _all_play(played: script.Script, data: Path) -> list[list[dict[str, Any]]]:
    outs = [io.StringIO() for _ in range(NODES)]

    async def where(number: int) -> str:
        await players[number].listens.wait()
        return str(players[number].node.listening[0])

    players = [
        Player(played, number, where, "/ip4/127.0.0.1/tcp/0", outs[number], data / str(number))
        for number in range(NODES)
    ]
    await asyncio.wait_for(asyncio.gather(*(player.play() for player in players)), 60)
    return [[json.loads(line) for line in out.getvalue().splitlines()] for out in outs]


@pytest.mark.parametrize(("number", "lacks"), [("0", "partial messages"), ("-1", "0 to 2147483647")])
def test_the_command_says_what_it_lacks(number: str, lacks: str, tmp_path: Path) -> None:
    params = tmp_path / "params.json"
    params.write_text('{"script": [{"type": "publishPartial", "topicID": "t", "groupID": 1}]}')
    command = [sys.executable, "-m", "grove_gossipsub_interop", "--params", str(params), "--node", number]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert lacks in done.stderr
    assert done.stdout == ""
