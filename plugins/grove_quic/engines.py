"""The engines of one node, over aioquic: its certificate, and what a server says without an engine.

Implements `engine.Engines`. A Retry proves a client's address and stores nothing (RFC 9000 section
8.1.2); a refusal is an Initial packet that closes what was never opened.
"""

from __future__ import annotations

import os
import ssl
from typing import Any, Final

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import TRANSPORT_CLOSE_FRAME_CAPACITY
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicFrameType, QuicPacketType, encode_quic_retry
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.retry import QuicRetryTokenHandler

from grove_quic.config import Config
from grove_quic.engine import ID_LENGTH, Address, Engine, Initial
from grove_quic.over_aioquic import AioquicEngine
from grove_quic.wire import SMALLEST_INITIAL, VERSION_1

ALPN: Final = "libp2p"

MARK_LENGTH: Final = 8
"""Bytes before each of our Retry tokens by which we know it for ours."""

_CIPHERS = [
    tls.CipherSuite.AES_128_GCM_SHA256,
    tls.CipherSuite.AES_256_GCM_SHA384,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256,
]


class AioquicEngines:
    """Implements `engine.Engines`."""

    def __init__(self, config: Config, certificate: Any, key: Any, *, streams: int) -> None:
        """certificate, key: `cryptography` objects as `grove_libp2p.certificate` makes them.

        streams: that a peer may have open on one connection.
        """
        self._config = config
        self._streams = streams
        self._retry = QuicRetryTokenHandler()
        self._mark = os.urandom(MARK_LENGTH)
        self._client, self._server = (
            QuicConfiguration(
                alpn_protocols=[ALPN],
                certificate=certificate,
                cipher_suites=_CIPHERS,
                connection_id_length=ID_LENGTH,
                idle_timeout=config.idle_timeout,
                is_client=is_client,
                max_data=config.connection_window,
                max_datagram_size=SMALLEST_INITIAL,
                max_stream_data=config.stream_window,
                private_key=key,
                supported_versions=[VERSION_1],
                verify_mode=ssl.CERT_NONE,
            )
            for is_client in (True, False)
        )

    def dial(self, address: Address, now: float, *, local: bool = False) -> Engine:
        engine = AioquicEngine(
            self._config, self._client, datagram=self._datagram(local), streams=self._streams
        )
        engine.connect(address, now)
        return engine

    def accept(
        self, initial: Initial, address: Address, now: float, *, local: bool = False
    ) -> Engine | None:
        original, retried = initial.destination, None
        if initial.token:
            try:
                original = self._retry.validate_token(
                    address=address,
                    destination_cid=initial.destination,
                    token=initial.token[MARK_LENGTH:],
                    now=now,
                )
            except ValueError:
                return None
            retried = initial.destination
        return AioquicEngine(
            self._config,
            self._server,
            datagram=self._datagram(local),
            streams=self._streams,
            original=original,
            retried=retried,
        )

    def is_ours(self, token: bytes) -> bool:
        return token.startswith(self._mark)

    def retry(self, initial: Initial, address: Address, now: float) -> bytes:
        source = os.urandom(ID_LENGTH)
        token = self._mark + self._retry.create_token(
            address=address,
            original_destination_connection_id=initial.destination,
            retry_source_connection_id=source,
            now=now,
        )
        return encode_quic_retry(VERSION_1, source, initial.source, initial.destination, token)

    def refuse(self, initial: Initial, code: int) -> bytes:
        crypto = CryptoPair()
        crypto.setup_initial(cid=initial.destination, is_client=False, version=VERSION_1)
        builder = QuicPacketBuilder(
            host_cid=initial.destination,
            is_client=False,
            max_datagram_size=SMALLEST_INITIAL,
            peer_cid=initial.source,
            version=VERSION_1,
        )
        builder.start_packet(QuicPacketType.INITIAL, crypto)
        buf = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, TRANSPORT_CLOSE_FRAME_CAPACITY)
        for field in (code, int(QuicFrameType.PADDING), 0):
            buf.push_uint_var(field)
        return builder.flush()[0][0]

    def _datagram(self, local: bool) -> int:
        return self._config.datagram_loopback if local else self._config.datagram
