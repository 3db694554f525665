"""What a server may say: etcd's JSON and its HTTP. Anything else is one error, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from grove_consensus_etcd import http, layout, wire
from grove_consensus_etcd.api import (
    Delete,
    Done,
    Ended,
    Entry,
    Failed,
    Get,
    Grant,
    Heard,
    If,
    KeepAlive,
    Leased,
    Put,
    Request,
    Txn,
)
from grove_consensus_etcd.http import Connection
from grove_consensus_etcd.layout import Head, Layout, decode_head, encode_head

from grove_core.errors import RemoteProtocolError
from grove_core.testing import peer

HEADER = '"header":{"cluster_id":"10144879847569953045","member_id":"1","revision":"2","raft_term":"2"}'
REV, LATER = '"mod_revision":"2"', '"mod_revision":"3"'
KV = '{"key":"YQ==","create_revision":"2","mod_revision":"2","version":"1","value":"Yg=="}'
READ = Txn(then=(Get(b"a"),))
WRITE = Txn((If(b"a", "created", 0),), (Put(b"a", b"b"), Get(b"a")), (Get(b"a"), Get(b"x", b"y")))
CLUSTER = 10144879847569953045


def body(rest: str) -> str:
    return f"{{{HEADER},{rest}}}"


def result(rest: str) -> str:
    return f'{{"result":{body(rest)}}}'


def found(entries: str) -> str:
    return body(f'"succeeded":true,"responses":[{{"response_range":{{"kvs":[{entries}]}}}}]')


# What Debian's etcd 3.4.23 answered.
SAID: list[tuple[Request, str, Done | Leased]] = [
    (
        WRITE,
        body(
            '"succeeded":true,"responses":[{"response_put":{"header":{"revision":"2"}}},'
            f'{{"response_range":{{"header":{{"revision":"2"}},"kvs":[{KV}],"count":"1"}}}}]'
        ),
        Done(CLUSTER, 2, True, ((), (Entry(b"a", b"b", 2, 2, 1),))),
    ),
    (
        WRITE,
        body(
            f'"responses":[{{"response_range":{{"header":{{"revision":"2"}},"kvs":[{KV}],"count":"1"}}}},'
            '{"response_range":{"header":{"revision":"2"}}}]'
        ),
        Done(CLUSTER, 2, False, ((Entry(b"a", b"b", 2, 2, 1),), ())),
    ),
    (
        Grant(10),
        body('"ID":"1418812018192904967","TTL":"10"'),
        Leased(CLUSTER, 1418812018192904967, 10),
    ),
    (KeepAlive(123), result('"ID":"123"') + "\n", Leased(CLUSTER, 123, 0)),
]
HEARD = result(f'"events":[{{"kv":{KV}}}]')
COMPACTED = result('"canceled":true,"compact_revision":"2"')


@pytest.mark.parametrize(("request_", "said", "answer"), SAID)
def test_what_etcd_says_is_understood(request_: Request, said: str, answer: Done | Leased) -> None:
    assert wire.decode(request_, said.encode()) == answer


def test_what_a_watch_says_is_understood() -> None:
    assert wire.decode_watch(HEARD.encode(), b"a", b"b") == Heard(CLUSTER, (Entry(b"a", b"b", 2, 2, 1),))
    over = wire.decode_watch(COMPACTED.encode(), b"a", b"b")
    assert over == Ended("compacted up to 2", compacted=True)
    lost = wire.decode_watch(b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}', b"a", b"b")
    assert lost == Ended("etcdserver: no leader")
    assert wire.decode_watch(result('"created":true').encode(), b"a", b"b") is None


@pytest.mark.claim("etcd.bad-answers")
@pytest.mark.parametrize(
    ("request_", "said", "why"),
    [
        (READ, body('"succeeded":true'), "0 answers to 1 operations"),
        (READ, body('"responses":[]'), "did not succeed"),
        (
            READ,
            '{"header":{},"succeeded":true,"responses":[{"response_range":{}}]}',
            "without a revision",
        ),
        (READ, body('"succeeded":true,"responses":[{"response_put":{}}]'), "something else answered"),
        (READ, found('{"key":"eA=="}'), "revisions"),
        (
            READ,
            found(KV.replace("YQ==", "eA==")),
            "outside the range",
        ),
        (
            Txn(then=(Get(b"a", b"c", by_revision=True),)),
            found(f"{KV.replace(REV, LATER)},{KV}"),
            "not in order",
        ),
        (Grant(5), body('"ID":"0","TTL":"10"'), "without a name"),
        (KeepAlive(1), result('"ID":"2","TTL":"9"'), "lease 2 was kept alive instead"),
        (READ, "[]", "not etcd's JSON"),
        (READ, "", "not etcd's JSON"),
        (READ, "[" * 100_000, "not etcd's JSON"),
    ],
)
def test_an_answer_to_another_question_is_refused(request_: Request, said: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        wire.decode(request_, said.encode())


@pytest.mark.parametrize(
    ("status", "said", "kind", "says"),
    [
        (503, '{"message":"etcdserver: request timed out","code":14}', "unknown", "timed out"),
        (503, '{"message":"etcdserver: leader changed","code":14}', "unknown", "leader changed"),
        (429, '{"message":"etcdserver: too many requests","code":8}', "unknown", "too many"),
        (429, '{"message":"etcdserver: mvcc: database space exceeded","code":8}', "refused", "defrag"),
        (400, '{"message":"etcdserver: request is too large","code":3}', "refused", "too large"),
        (403, '{"error":"etcdserver: permission denied","code":7}', "refused", "permission denied"),
        (404, "Not Found", "unknown", "HTTP status 404: Not Found"),
        (500, "\x1b[2J", "unknown", r"\\x1b"),
    ],
)
def test_only_what_etcd_never_did_counts_as_refused(status: int, said: str, kind: str, says: str) -> None:
    failed, _ = wire.failure(status, said.encode())
    assert failed.kind == kind
    assert says.replace("\\\\", "\\") in failed.reason


def mutated(rng: Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                data[place:place] = rng.choice([b'"', b"{", b"-", b"9" * 30, b"null", rng.randbytes(4)])
            case 2:
                del data[place : place + rng.randrange(1, 9)]
            case _:
                data[place:place] = data[: rng.randrange(len(data) + 1)][:60]
    return bytes(data)


NAMES = Layout("/grove/")
ENTRY = NAMES.entry(peer(1), bytes(16))
HEAD = encode_head(Head(5, 3, NAMES.folder(5, peer(1)), 10, bytes(32)))
DECODERS: list[tuple[str, list[bytes], Callable[[bytes], Any]]] = [
    ("txn", [said.encode() for _, said, _ in SAID[:2]], lambda data: wire.decode(WRITE, data)),
    ("grant", [SAID[2][1].encode()], lambda data: wire.decode(Grant(10), data)),
    ("alive", [SAID[3][1].encode()], lambda data: wire.decode(KeepAlive(123), data)),
    ("watch", [HEARD.encode(), COMPACTED.encode()], lambda data: wire.decode_watch(data, b"a", b"b")),
    ("token", [b'{"token":"abc.1"}'], wire.decode_token),
    ("failure", [b'{"message":"x","code":14}'], lambda data: wire.failure(500, data)),
    ("key", [ENTRY], NAMES.read_entry),
    ("head", [HEAD], decode_head),
    (
        "http",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 342\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ],
        http.read_head,
    ),
    ("chunk", [b"1f\r\n", b"0;x=y\r\n"], http.read_chunk_size),
]


@pytest.mark.claim("etcd.bad-answers")
@pytest.mark.parametrize(("name", "frames", "decoder"), DECODERS, ids=[name for name, _, _ in DECODERS])
def test_mutated_answers_raise_one_error_and_nothing_else(
    name: str, frames: list[bytes], decoder: Callable[[bytes], Any]
) -> None:
    rng = Random(1)
    for frame in frames:
        decoder(frame)
    for number in range(3000):
        data = mutated(rng, rng.choice(frames)) if number % 10 else rng.randbytes(rng.randrange(80))
        try:
            decoder(data)
        except RemoteProtocolError:
            continue
        except Exception as error:
            raise AssertionError(f"{name}, seed 1, round {number}: {data!r} raised {error!r}") from error


def test_a_key_of_the_log_has_one_spelling() -> None:
    assert NAMES.read_entry(ENTRY) == (peer(1), bytes(16))
    for other in (ENTRY.upper(), ENTRY + b"00", ENTRY[:-2], ENTRY.replace(b"/0", b"/ 0")):
        with pytest.raises(RemoteProtocolError):
            NAMES.read_entry(other)


def test_the_head_may_not_promise_what_it_lacks() -> None:
    with pytest.raises(RemoteProtocolError, match="floor 6 is above its index 5"):
        decode_head(encode_head(Head(5, 6, "0" * 16, 1, bytes(32))))
    assert Head(1, 1, "0" * 16, layout.PIECE + 1, bytes(32)).pieces == 2


# HTTP, over a socket.


def serve(answer: bytes, ask: Callable[[Connection], Awaitable[Any]], *, slow: bool = False) -> Any:
    """What `ask` gets from a server that says `answer`, byte by byte if slow, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in [answer[n : n + 1] for n in range(len(answer))] if slow else [answer]:
                writer.write(part)
                await writer.drain()
                if slow:
                    await asyncio.sleep(0)
        finally:
            writer.close()

    async def main() -> Any:
        async with asyncio.timeout(10), await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connection = await Connection.open(f"http://127.0.0.1:{port}", None)
            try:
                return await ask(connection)
            finally:
                await connection.close()

    return asyncio.run(main())


async def post(connection: Connection) -> tuple[int, bytes]:
    return await connection.post("/v3/kv/txn", b"", 1000)


async def lines(connection: Connection) -> list[tuple[int, bytes]]:
    return [line async for line in connection.lines("/v3/watch", b"", 1000)]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"


@pytest.mark.parametrize("slow", [False, True])
def test_bodies_of_known_length_in_chunks_and_with_trailers(slow: bool) -> None:
    sized = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    assert serve(sized, post, slow=slow) == (200, b"hello")
    chunked = CHUNKED + b"2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nX: y\r\n\r\n"
    assert serve(chunked, post, slow=slow) == (200, b"hello")
    streamed = CHUNKED + b"6\r\none\ntw\r\n3\r\no\nt\r\n4\r\nhree\r\n0\r\n\r\n"
    assert serve(streamed, lines, slow=slow) == [(200, b"one"), (200, b"two"), (200, b"three")]


@pytest.mark.claim("etcd.bad-answers")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001),
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"3\r\nhello\r\n",
        CHUNKED + b"fffffffff\r\n" + bytes(2000),
        CHUNKED + b"1\r\na\r\n0\r\n" + b"A: b\r\n" * 100 + b"\r\n",
        CHUNKED + b"7d1\r\n" + b"x" * 2001 + b"\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_answer_or_too_long_is_refused(answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        serve(answer, post)
    if b"chunked" in answer and b"Length" not in answer and b"A: b" not in answer:
        with pytest.raises(RemoteProtocolError):
            serve(answer, lines)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", CHUNKED + b"5\r\nhe"],
)
def test_a_server_that_hangs_up_is_gone(answer: bytes) -> None:
    with pytest.raises(OSError, match="closed"):
        serve(answer, post)


def test_requests_say_what_etcd_reads() -> None:
    path, asked = wire.encode(Txn((If(b"a", "modified", 3),), (Delete(b"a", b"b"), Put(b"c", b"", 7))))
    assert path == "/v3/kv/txn"
    assert asked == (
        b'{"compare":[{"key":"YQ==","result":"EQUAL","target":"MOD","mod_revision":"3"}],'
        b'"success":[{"request_delete_range":{"key":"YQ==","range_end":"Yg=="}},'
        b'{"request_put":{"key":"Yw==","value":"","lease":"7"}}],"failure":[]}'
    )
    assert isinstance(wire.failure(500, b"")[0], Failed)
