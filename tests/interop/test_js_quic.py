"""What only QUIC has: certificates that must be there and must be right (libp2p-wire.md 2.4, 4.2 A).

js always shows a good certificate, so the other end here is bare aioquic, which shows what it is given.
"""

from __future__ import annotations

import asyncio
import datetime
from typing import Literal

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from grove_core.identity import Identity
from grove_core.multiaddr import Multiaddr
from grove_core.transport import DialError
from tests.interop.grove_end import grove_end
from tests.interop.lines import Way, line
from tests.interop.test_js import run

Flaw = Literal["none", "no extension", "another key's signature", "rubbish in the extension", "expired"]
FLAWS: tuple[Flaw, ...] = (
    "no extension",
    "another key's signature",
    "rubbish in the extension",
    "expired",
)
TLS_ALERTS = range(0x100, 0x200)  # RFC 9001 4.8: a TLS alert as a QUIC connection error


def tls(is_client: bool, flaw: Flaw | None) -> QuicConfiguration:
    """A bare QUIC end with a certificate of this flaw, or with no certificate at all."""
    configuration = QuicConfiguration(is_client=is_client, alpn_protocols=["libp2p"])
    configuration.verify_mode = False
    if flaw is not None:
        configuration.certificate, configuration.private_key = certificate(flaw)
    return configuration


def certificate(flaw: Flaw) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A self-signed libp2p certificate (specs/tls/tls.md) with one thing wrong."""
    host = Identity.generate()
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signer = Identity.generate() if flaw == "another key's signature" else host
    proof = der(
        0x30, der(0x04, host.public.encode()) + der(0x04, signer.sign(b"libp2p-tls-handshake:" + spki))
    )
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=-1 if flaw == "expired" else 1))
    )
    if flaw != "no extension":
        value = b"\x30\x03\x02\x01" if flaw == "rubbish in the extension" else proof
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(key, hashes.SHA256()), key


def der(tag: int, body: bytes) -> bytes:
    length = bytes([len(body)]) if len(body) < 128 else bytes([0x81, len(body)])
    return bytes([tag]) + length + body


class Bare(QuicConnectionProtocol):
    """Notes whether the handshake was completed and how the connection ended."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.secure = False
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self.secure = True
        elif isinstance(event, ConnectionTerminated) and not self.ended.done():
            self.ended.set_result(event.error_code)


async def dialled_by(flaw: Flaw | None) -> tuple[int, int]:
    """Let a bare client dial Grove: the code it was sent away with, and how often Grove took it in."""
    async with grove_end("quic") as grove:
        address = Multiaddr.parse(grove.addr())
        assert address.port
        async with connect(
            "127.0.0.1",
            address.port,
            configuration=tls(True, flaw),
            create_protocol=Bare,
            wait_connected=False,
        ) as client:
            assert isinstance(client, Bare)
            client.transmit()
            if flaw == "none":
                await grove.until(lambda: grove.live)
                return 0, len(grove.live)
            code = await client.ended
            await grove.settled()
            return code, grove.taken_in


async def dials(flaw: Flaw) -> None:
    """Let Grove dial a bare server."""
    server = await serve("127.0.0.1", 0, configuration=tls(False, flaw), create_protocol=Bare)
    try:
        assert server._transport is not None
        port = server._transport.get_extra_info("sockname")[1]
        async with grove_end("quic") as grove:
            try:
                await grove.transport.dial(Multiaddr.quic("127.0.0.1", port), None)
            finally:
                assert len(grove.live) == (flaw == "none")
    finally:
        server.close()


@line("certificate-missing")
def test_a_client_without_a_certificate_is_refused(way: Way) -> None:
    code, taken_in = asyncio.run(asyncio.wait_for(dialled_by(None), 20))
    assert code in TLS_ALERTS
    assert taken_in == 0


@line("certificate-bad")
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_bad_certificate_is_refused(way: Way, flaw: Flaw) -> None:
    async def main() -> None:
        if way.grove_dials:
            with pytest.raises(DialError, match=r"certificate|extension"):
                await dials(flaw)
        else:
            code, taken_in = await dialled_by(flaw)
            assert code in TLS_ALERTS
            assert taken_in == 0

    run(main())


@line("certificate-bad")
def test_the_same_ends_with_a_good_certificate_are_let_in(way: Way) -> None:
    """The control: what is refused above is refused for its flaw."""

    async def main() -> None:
        if way.grove_dials:
            await dials("none")
        else:
            assert await dialled_by("none") == (0, 1)

    run(main())
