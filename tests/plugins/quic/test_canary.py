"""We lean on private names of aioquic; when one goes, this says which, before anything else breaks.

The names are read out of the engine's source, so the list cannot grow old.
"""

from __future__ import annotations

import ast
import inspect
from importlib.metadata import version

import aioquic
from aioquic import tls
from aioquic.quic.connection import Limit, QuicConnection, QuicConnectionId, QuicNetworkPath
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream
from grove_quic import engines, over_aioquic
from grove_quic.config import Config
from grove_quic.engines import AioquicEngines
from grove_quic.over_aioquic import AioquicEngine

from tests.plugins.quic.link import Link

FUTURE = "from __future__ import annotations"  # may stand only once
TREE = ast.parse(inspect.getsource(over_aioquic) + inspect.getsource(engines).replace(FUTURE, ""))


def private_names() -> set[str]:
    """Attributes with one underscore that the engine's source mentions, and methods it overrides."""
    names = {node.attr for node in ast.walk(TREE) if isinstance(node, ast.Attribute)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def their_names() -> set[str]:
    """Every attribute of the objects of aioquic that the engine touches, from a living connection."""
    link = Link()
    stream_id = link.client.open_stream()
    assert stream_id is not None
    stream = link.client._streams[stream_id]
    plain = QuicConnection(configuration=link.engines[0]._client)
    builder = QuicPacketBuilder(
        host_cid=b"", peer_cid=b"", version=1, is_client=True, max_datagram_size=1200
    )
    recovery = QuicPacketRecovery(
        congestion_control_algorithm="reno",
        initial_rtt=0.1,
        max_datagram_size=1200,
        peer_completed_address_validation=True,
        send_probe=lambda: None,
    )
    things = (
        plain,
        link.client.tls,
        recovery,
        recovery._cc,
        stream,
        stream.sender,
        stream.receiver,
        builder,
    )
    return {name for thing in things for name in dir(thing)}


def test_every_private_name_we_use_is_still_there() -> None:
    ours = {
        node.name
        for kind in ast.walk(TREE)
        if isinstance(kind, ast.ClassDef)
        for node in kind.body
        if isinstance(node, ast.FunctionDef) and not hasattr(QuicConnection, node.name)
    } | set(vars(AioquicEngines(Config(), None, None, streams=1)))
    missing = sorted(private_names() - their_names() - ours)
    assert not missing, f"aioquic {version('aioquic')} no longer has {missing}, which we use"


def test_our_own_names_do_not_hide_theirs() -> None:
    public = {name for name in vars(AioquicEngine) if not name.startswith("_")}
    assert not public & set(dir(QuicConnection)), "an engine method hides a method of aioquic"


def test_methods_we_replace_are_called_as_we_expect() -> None:
    expected = {
        "_write_application": ["builder", "network_path", "now"],
        "_write_connection_limits": ["builder", "space"],
        "_get_or_create_stream": ["frame_type", "stream_id"],
        "_handle_crypto_frame": ["context", "frame_type", "buf"],
        "_handle_ack_frame": ["context", "frame_type", "buf"],
        "_handle_max_streams_bidi_frame": ["context", "frame_type", "buf"],
        "_initialize": ["peer_cid"],
        "_parse_transport_parameters": ["data", "from_session_ticket"],
        "_on_max_stream_data_delivery": ["delivery", "stream"],
    }
    for name, parameters in expected.items():
        found = list(inspect.signature(getattr(QuicConnection, name)).parameters)[1:]
        assert found == parameters, f"QuicConnection.{name} now takes {found}"


def test_everything_we_override_exists() -> None:
    overridden = {name for name in vars(AioquicEngine) if name.startswith("_handle_")}
    assert overridden <= set(dir(QuicConnection))


def test_fields_we_set_are_still_read() -> None:
    assert Limit(0, "x", 5).sent == 5
    assert not QuicConnectionId(b"", 0).was_sent
    path = QuicNetworkPath(("", 0))
    assert (path.local_challenge_sent, path.validation_deadline, len(path.remote_challenges)) == (
        False,
        None,
        0,
    )
    assert "in_flight" in QuicSentPacket.__dataclass_fields__
    assert tls.Context(is_client=False)._request_client_certificate is False
    assert QuicStream(stream_id=0).max_stream_data_local_sent == 0


def test_the_version_is_one_that_was_looked_at() -> None:
    assert aioquic.__version__.startswith("1.7."), f"aioquic {aioquic.__version__} was not looked at"
