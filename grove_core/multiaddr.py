"""Multiaddrs: network addresses that say how they are to be used, as text and as bytes.

    /ip4/192.0.2.7/udp/4001/quic-v1/p2p/12D3KooW…

Source: libp2p/specs addressing/README.md and the multiaddr table; the codes that libp2p uses are
below, a few of them only so that an address that carries them can be kept and passed on. A value has
one form: text and bytes are normalised on the way in, so equal addresses are equal values.

An address with an unknown code cannot be read at all (its length is unknowable): whoever decodes a
list of addresses drops that one and keeps the message.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, NoReturn

from grove_core import multibase, varint
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import check_peer, parse_peer, peer_text
from grove_core.machine import PeerId

MAX_SIZE: Final = 1024
"""Longest address in bytes as encoded."""

MAX_TEXT: Final = 2048
"""Longest address in characters that `parse` reads."""

MAX_NAME: Final = 253
"""Longest value of a dns, sni or zone component in bytes (RFC 1035)."""

Scope = Literal["loopback", "link", "private", "public", "unknown"]
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_SHARED = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598: behind a carrier's NAT


class Multiaddr:
    """An address. Immutable, hashable, equal by value; never empty.

    parts: the components in order, each (name, value as text); the value is "" where there is none.
    """

    __slots__ = ("_encoded", "parts")

    _encoded: bytes
    parts: tuple[tuple[str, str], ...]

    def __init__(self, *parts: tuple[str, str]) -> None:
        """From components. Raises RemoteProtocolError if one is unknown or its value does not fit."""
        if not parts:
            raise RemoteProtocolError("an empty multiaddr")
        encoded = bytearray()
        normal = []
        for name, text in parts:
            component = _BY_NAME.get(name)
            if component is None:
                raise RemoteProtocolError(f"multiaddr component {_shown(name)} is not known")
            value = component.to_bytes(text)
            encoded += component.prefix
            if component.size is None:
                encoded += varint.encode(len(value))
            encoded += value
            normal.append((component.name, component.to_text(value)))
        self._set(bytes(encoded), tuple(normal))

    def _set(self, encoded: bytes, parts: tuple[tuple[str, str], ...]) -> None:
        if len(encoded) > MAX_SIZE:
            raise RemoteProtocolError(f"multiaddr of {len(encoded)} bytes; limit {MAX_SIZE}")
        if any(name == "unix" for name, _ in parts[:-1]):
            raise RemoteProtocolError("multiaddr with something behind a unix path, which comes last")
        object.__setattr__(self, "_encoded", encoded)
        object.__setattr__(self, "parts", parts)

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """Read the text form. Raises RemoteProtocolError, and nothing else."""
        if len(text) > MAX_TEXT:
            raise RemoteProtocolError(f"multiaddr of {len(text)} characters; limit {MAX_TEXT}")
        if not text.startswith("/"):
            raise RemoteProtocolError(f"multiaddr {_shown(text)} does not begin with '/'")
        words = text.rstrip("/").split("/")[1:]
        parts = []
        at = 0
        while at < len(words):
            name = words[at]
            at += 1
            component = _BY_NAME.get(name)
            if component is None:
                raise RemoteProtocolError(f"multiaddr {_shown(text)}: {_shown(name)} is not known")
            if component.size == 0:
                parts.append((name, ""))
            elif component.is_path:
                parts.append((name, "/" + "/".join(words[at:])))
                at = len(words)
            elif at == len(words):
                raise RemoteProtocolError(f"multiaddr {_shown(text)}: {name} lacks its value")
            else:
                parts.append((name, words[at]))
                at += 1
        return cls(*parts)

    @classmethod
    def decode(cls, data: bytes) -> Multiaddr:
        """Read the binary form. Raises RemoteProtocolError, and nothing else, on any bytes."""
        if not 0 < len(data) <= MAX_SIZE:
            raise RemoteProtocolError(f"multiaddr of {len(data)} bytes; it has 1 to {MAX_SIZE}")
        data = bytes(data)
        parts = []
        at = 0
        while at < len(data):
            code, at = varint.decode(data, at)
            component = _BY_CODE.get(code)
            if component is None:
                raise RemoteProtocolError(f"multiaddr component of unknown code {code}")
            size = component.size
            if size is None:
                size, at = varint.decode(data, at)
            if size > len(data) - at:
                raise RemoteProtocolError(
                    f"multiaddr component {component.name} of {size} bytes; {len(data) - at} are left"
                )
            parts.append((component.name, component.to_text(data[at : at + size])))
            at += size
        address = cls.__new__(cls)
        address._set(data, tuple(parts))
        return address

    @classmethod
    def tcp(cls, host: str | IPAddress, port: int) -> Multiaddr:
        """/ip4|ip6|dns/HOST/tcp/PORT. IPv4-mapped IPv6 becomes IPv4, "%zone" becomes /ip6zone."""
        return cls(*_host(host), ("tcp", str(port)))

    @classmethod
    def quic(cls, host: str | IPAddress, port: int) -> Multiaddr:
        """/ip4|ip6|dns/HOST/udp/PORT/quic-v1; the host as in `tcp`."""
        return cls(*_host(host), ("udp", str(port)), ("quic-v1", ""))

    def encode(self) -> bytes:
        """The binary form, at most 1024 bytes."""
        return self._encoded

    def __str__(self) -> str:
        return "".join(_written(name, value) for name, value in self.parts)

    def __repr__(self) -> str:
        return f"Multiaddr({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Multiaddr) and self._encoded == other._encoded

    def __hash__(self) -> int:
        return hash(self._encoded)

    def __reduce__(self) -> tuple[Callable[[bytes], Multiaddr], tuple[bytes]]:
        return Multiaddr.decode, (self._encoded,)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a multiaddr does not change ({name})")

    def value(self, name: str) -> str | None:
        """The value of the first component of a name, or None."""
        for part, value in self.parts:
            if part == name:
                return value
        return None

    @property
    def peer(self) -> PeerId | None:
        """Whom this address reaches: its last /p2p, unless that is only the relay on the way."""
        for name, value in reversed(self.parts):
            if name == "p2p":
                return parse_peer(value)
            if name == "p2p-circuit":
                return None
        return None

    @property
    def relay(self) -> PeerId | None:
        """The relay that the last circuit of this address goes through, or None."""
        names = [name for name, _ in self.parts]
        if "p2p-circuit" not in names:
            return None
        before = self.parts[: len(names) - 1 - names[::-1].index("p2p-circuit")]
        for name, value in reversed(before):
            if name == "p2p":
                return parse_peer(value)
        return None

    def without_peer(self) -> Multiaddr:
        """This address without the /p2p at its end. LocalProtocolError if nothing would be left."""
        if self.parts[-1][0] != "p2p":
            return self
        if len(self.parts) == 1:
            raise LocalProtocolError(f"{self} is nothing but a peer")
        return Multiaddr(*self.parts[:-1])

    def with_peer(self, peer: PeerId) -> Multiaddr:
        """This address ending in /p2p and the peer, instead of any other peer at its end."""
        parts = self.parts[:-1] if self.parts[-1][0] == "p2p" else self.parts
        return Multiaddr(*parts, ("p2p", peer_text(peer)))

    @property
    def ip(self) -> IPAddress | None:
        """The IP address of the first hop (an IPv6 one with its zone), or None for names."""
        zone = ""
        for name, value in self.parts[:2]:
            if name == "ip6zone":
                zone = value
            elif name == "ip4":
                return ipaddress.IPv4Address(value)
            elif name == "ip6":
                return ipaddress.IPv6Address(f"{value}%{zone}" if zone else value)
        return None

    @property
    def host(self) -> str | None:
        """What to connect to: the IP address as text (with %zone), or the DNS name."""
        ip = self.ip
        if ip is not None:
            return str(ip)
        name, value = self.parts[0]
        return value if name in _NAMES else None

    @property
    def port(self) -> int | None:
        """The first TCP or UDP port."""
        for name, value in self.parts:
            if name in ("tcp", "udp"):
                return int(value)
        return None

    @property
    def is_tcp(self) -> bool:
        """Plain TCP to a host, nothing between it and the libp2p upgrade (no ws, no tls, no relay)."""
        return self._stack() == ("tcp",)

    @property
    def is_quic(self) -> bool:
        """QUIC version 1 to a host, and nothing else."""
        return self._stack() == ("udp", "quic-v1")

    @property
    def is_circuit(self) -> bool:
        """Through a relay."""
        return self.value("p2p-circuit") is not None

    @property
    def scope(self) -> Scope:
        """How far this address reaches; of a relayed one, how far its relay does.

        "unknown" for names and for what nobody can be reached at (0.0.0.0, multicast, reserved).
        """
        ip = self.ip
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip is None or ip.is_unspecified or ip.is_multicast:
            return "unknown"
        if ip.is_loopback:
            return "loopback"
        if ip.is_link_local:
            return "link"
        if ip.is_global:
            return "public"
        if ip.is_private or (ip.version == 4 and ip in _SHARED):
            return "private"
        return "unknown"

    def _stack(self) -> tuple[str, ...]:
        """The names after the host, without a /p2p at the end; () if there is no host in front."""
        names = [name for name, _ in self.parts]
        if names[:2] == ["ip6zone", "ip6"]:
            del names[0]
        if names[0] not in _HOSTS:
            return ()
        return tuple(names[1:-1] if names[-1] == "p2p" else names[1:])


class _Component(NamedTuple):
    """One kind of component: its code, how long its value is, and how it is written."""

    name: str
    code: int
    prefix: bytes
    """The code as a varint."""
    size: int | None
    """Bytes of the value; None: a varint length stands before it."""
    to_bytes: Callable[[str], bytes]
    to_text: Callable[[bytes], str]
    is_path: bool = False


def _written(name: str, value: str) -> str:
    if not value:
        return f"/{name}"
    return f"/{name}{value}" if value[0] == "/" else f"/{name}/{value}"


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def _host(host: str | IPAddress) -> tuple[tuple[str, str], ...]:
    try:
        ip = ipaddress.ip_address(host) if isinstance(host, str) else host
    except ValueError:
        return (("dns", str(host)),)
    if ip.version == 4:
        return (("ip4", str(ip)),)
    if ip.ipv4_mapped is not None:
        return (("ip4", str(ip.ipv4_mapped)),)
    if ip.scope_id:
        return (("ip6zone", ip.scope_id), ("ip6", str(ip).partition("%")[0]))
    return (("ip6", str(ip)),)


# How each kind of value is written. Every function raises RemoteProtocolError on what does not fit.


def _nothing_to_bytes(text: str) -> bytes:
    if text:
        raise RemoteProtocolError(f"multiaddr component with value {_shown(text)} where there is none")
    return b""


def _nothing_to_text(value: bytes) -> str:
    return ""


def _ip4_to_bytes(text: str) -> bytes:
    try:
        return ipaddress.IPv4Address(text).packed
    except ValueError:
        raise RemoteProtocolError(f"{_shown(text)} is no IPv4 address") from None


def _ip4_to_text(value: bytes) -> str:
    return f"{value[0]}.{value[1]}.{value[2]}.{value[3]}"


def _ip6_to_bytes(text: str) -> bytes:
    if "%" in text:
        raise RemoteProtocolError(f"{_shown(text)}: a zone is written /ip6zone/NAME before /ip6")
    try:
        return ipaddress.IPv6Address(text).packed
    except ValueError:
        raise RemoteProtocolError(f"{_shown(text)} is no IPv6 address") from None


def _ip6_to_text(value: bytes) -> str:
    return str(ipaddress.IPv6Address(value))


def _number(size: int) -> tuple[Callable[[str], bytes], Callable[[bytes], str]]:
    """Decimal text, big-endian bytes."""
    limit = 256**size - 1

    def to_bytes(text: str) -> bytes:
        if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) > limit:
            raise RemoteProtocolError(f"multiaddr number {_shown(text)}; it is 0 to {limit}")
        return int(text).to_bytes(size, "big")

    return to_bytes, lambda value: str(int.from_bytes(value, "big"))


def _name_to_bytes(text: str) -> bytes:
    value = text.encode("utf-8", "surrogatepass")
    _name_to_text(value)
    return value


def _name_to_text(value: bytes) -> str:
    """A DNS, SNI or zone name: printable (it will stand on terminals), without blanks, '/' and '%'."""
    if not 0 < len(value) <= MAX_NAME:
        raise RemoteProtocolError(f"multiaddr name of {len(value)} bytes; it has 1 to {MAX_NAME}")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("multiaddr name that is not UTF-8") from None
    if not text.isprintable() or any(character in "/% " for character in text):
        raise RemoteProtocolError(f"multiaddr name {_shown(text)} with a character names do not have")
    return text


def _path_to_bytes(text: str) -> bytes:
    value = text.encode("utf-8", "surrogatepass")
    _path_to_text(value)
    return value


def _path_to_text(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("multiaddr path that is not UTF-8") from None
    if len(text) < 2 or text[0] != "/" or text[-1] == "/" or not text.isprintable():
        raise RemoteProtocolError(f"multiaddr path {_shown(text)}; it begins, and does not end, with '/'")
    return text


def _peer_to_bytes(text: str) -> bytes:
    return parse_peer(text)


def _peer_to_text(value: bytes) -> str:
    return peer_text(check_peer(value))


def _hash_to_bytes(text: str) -> bytes:
    value = multibase.decode(text)
    _hash_to_text(value)
    return value


def _hash_to_text(value: bytes) -> str:
    """A multihash: code, length, digest."""
    _, at = varint.decode(value)
    size, at = varint.decode(value, at)
    if size != len(value) - at or not 0 < size <= 128:
        raise RemoteProtocolError(
            f"multihash that says {size} bytes and has {len(value) - at}; limit 128"
        )
    return multibase.base64url(value)


_NOTHING = (_nothing_to_bytes, _nothing_to_text)
_NAME = (_name_to_bytes, _name_to_text)


def _component(
    name: str,
    code: int,
    size: int | None,
    form: tuple[Callable[[str], bytes], Callable[[bytes], str]],
    *,
    is_path: bool = False,
) -> _Component:
    return _Component(name, code, varint.encode(code), size, *form, is_path)


_COMPONENTS: Final = (
    _component("ip4", 4, 4, (_ip4_to_bytes, _ip4_to_text)),
    _component("tcp", 6, 2, _number(2)),
    _component("ip6", 41, 16, (_ip6_to_bytes, _ip6_to_text)),
    _component("ip6zone", 42, None, _NAME),
    _component("ipcidr", 43, 1, _number(1)),
    _component("dns", 53, None, _NAME),
    _component("dns4", 54, None, _NAME),
    _component("dns6", 55, None, _NAME),
    _component("dnsaddr", 56, None, _NAME),
    _component("udp", 273, 2, _number(2)),
    _component("webrtc-direct", 280, 0, _NOTHING),
    _component("webrtc", 281, 0, _NOTHING),
    _component("p2p-circuit", 290, 0, _NOTHING),
    _component("unix", 400, None, (_path_to_bytes, _path_to_text), is_path=True),
    _component("p2p", 421, None, (_peer_to_bytes, _peer_to_text)),
    _component("https", 443, 0, _NOTHING),
    _component("tls", 448, 0, _NOTHING),
    _component("sni", 449, None, _NAME),
    _component("noise", 454, 0, _NOTHING),
    _component("quic", 460, 0, _NOTHING),  # draft 29: read, never dialled
    _component("quic-v1", 461, 0, _NOTHING),
    _component("webtransport", 465, 0, _NOTHING),
    _component("certhash", 466, None, (_hash_to_bytes, _hash_to_text)),
    _component("ws", 477, 0, _NOTHING),
    _component("wss", 478, 0, _NOTHING),
    _component("http", 480, 0, _NOTHING),
    _component("memory", 777, 8, _number(8)),
)
_BY_CODE: Final = {component.code: component for component in _COMPONENTS}
_BY_NAME: Final = {component.name: component for component in _COMPONENTS}
_BY_NAME["ipfs"] = _BY_NAME["p2p"]  # the old name of p2p, still read

_NAMES: Final = frozenset({"dns", "dns4", "dns6", "dnsaddr"})
_HOSTS: Final = frozenset({"ip4", "ip6", "dns", "dns4", "dns6"})
