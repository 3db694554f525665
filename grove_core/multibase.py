"""Multibase: bytes as text whose first character says the base.

Source: multiformats/multibase. The bases that peer ids and certificate hashes come in: base16 (f F),
base32 (b B), base36 (k K), base58btc (z) and base64url (u, U padded). Base58btc also stands bare, in
the classic form of peer ids. Everything here raises RemoteProtocolError and nothing else on bad text.
"""

from __future__ import annotations

import base64
import binascii

from grove_core.errors import RemoteProtocolError

MAX_TEXT = 1024
"""Longest text decoded, in characters: the positional bases cost quadratic time."""

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE36_DIGITS = {digit: value for value, digit in enumerate(_BASE36)}
_BASE58_DIGITS = {digit: value for value, digit in enumerate(_BASE58)}


def base32(data: bytes) -> str:
    """RFC 4648 base32, lower case, no padding, no prefix."""
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def from_base32(text: str) -> bytes:
    """The bytes of lower-case unpadded base32; the one text each byte string has."""
    _bound(text)
    try:
        data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise RemoteProtocolError(f"{_shown(text)} is not base32") from None
    if base32(data) != text:
        raise RemoteProtocolError(f"{_shown(text)} is not base32 in its one canonical form")
    return data


def base58(data: bytes) -> str:
    """Bitcoin's base58, no prefix. A leading zero byte is a leading "1"."""
    zeros = len(data) - len(data.lstrip(b"\0"))
    number, digits = int.from_bytes(data, "big"), []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return "1" * zeros + "".join(reversed(digits))


def from_base58(text: str) -> bytes:
    """The bytes of bare base58btc."""
    return _positional(text, _BASE58_DIGITS, "base58")


def base64url(data: bytes) -> str:
    """Multibase "u": RFC 4648 base64url without padding, prefix included."""
    return "u" + base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def decode(text: str) -> bytes:
    """The bytes of multibase text in any of the bases above."""
    _bound(text)
    prefix, body = text[:1], text[1:]
    if prefix in ("b", "B"):
        return from_base32(body.lower() if prefix == "B" and body == body.upper() else body)
    if prefix == "z":
        return from_base58(body)
    if prefix in ("k", "K"):
        lower = body.lower() if prefix == "K" and body == body.upper() else body
        return _positional(lower, _BASE36_DIGITS, "base36")
    if prefix in ("f", "F"):
        return _from_base16(body)
    if prefix in ("u", "U"):
        return _from_base64url(body)
    raise RemoteProtocolError(f"{_shown(text)}: multibase prefix {prefix!r}; known are b B f F k K u U z")


def _positional(text: str, digits: dict[str, int], base: str) -> bytes:
    _bound(text)
    zero = next(iter(digits))
    number = 0
    for character in text:
        digit = digits.get(character)
        if digit is None:
            raise RemoteProtocolError(f"{_shown(text)} is not {base}: {character!r} is no digit of it")
        number = number * len(digits) + digit
    zeros = len(text) - len(text.lstrip(zero))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _from_base16(body: str) -> bytes:
    try:
        return base64.b16decode(body, casefold=True)
    except (binascii.Error, ValueError):
        raise RemoteProtocolError(f"{_shown(body)} is not base16") from None


def _from_base64url(body: str) -> bytes:
    text = body.rstrip("=")
    if not text.isascii() or not all(character.isalnum() or character in "-_" for character in text):
        raise RemoteProtocolError(f"{_shown(body)} is not base64url")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise RemoteProtocolError(f"{_shown(body)} is not base64url") from None


def _bound(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise RemoteProtocolError(f"{_shown(text)} has {len(text)} characters; limit {MAX_TEXT}")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 64 else text[:61] + "...")
