"""What only TCP has: a muxer to agree on, inside the Noise handshake or after it (libp2p-wire.md 2.3)."""

from __future__ import annotations

from tests.interop.conftest import StartJs
from tests.interop.grove_end import meeting
from tests.interop.lines import Way, line
from tests.interop.test_js import run, still_works


@line("muxer-inline")
def test_muxer_inside_the_handshake(way: Way, start_js: StartJs) -> None:
    async def main() -> None:
        async with meeting(way, start_js(muxer="inline")) as met:
            assert (met.dialled["negotiated"], met.dialled["muxer"]) == ("inline", "/yamux/1.0.0")
            await still_works(met)

    run(main())


@line("muxer-fallback")
def test_muxer_by_multistream_select(way: Way, start_js: StartJs) -> None:
    """As rust-libp2p always does: it names no muxers in its handshake."""

    async def main() -> None:
        async with meeting(way, start_js(muxer="select")) as met:
            assert (met.dialled["negotiated"], met.dialled["muxer"]) == ("select", "/yamux/1.0.0")
            await still_works(met)

    run(main())
