"""A js peer for every test that asks for one, and a record of what came out for docs/interop.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.interop import results
from tests.interop.js_peer import JsPeer, Missing, ci, installed

StartJs = Callable[..., JsPeer]


@pytest.fixture(scope="session")
def start_js() -> Iterator[StartJs]:
    """Start (or find still running) a js peer with these options. All end with the session."""
    running: dict[str, JsPeer] = {}
    lacking: list[Missing] = []  # asked once: an install that fails takes its time
    with ExitStack() as closers:

        def start(**options: Any) -> JsPeer:
            key = repr(sorted(options.items()))
            peer = running.get(key)
            if peer is None or not peer.alive:
                if not lacking:
                    try:
                        installed()
                    except Missing as missing:
                        lacking.append(missing)
                if lacking and ci():
                    pytest.fail(f"interop cannot run: {lacking[0]}", pytrace=False)
                if lacking:
                    pytest.skip(f"interop cannot run: {lacking[0]}")
                peer = running[key] = closers.enter_context(closing(JsPeer(**options)))
                results.versions(peer.versions)
            peer.forget()
            return peer

        yield start


@pytest.fixture
def js(start_js: StartJs) -> JsPeer:
    """A js peer with everything at its defaults."""
    return start_js()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    claim = item.get_closest_marker("claim")
    spec = getattr(item, "callspec", None)
    if claim and spec and "way" in spec.params and (report.when == "call" or not report.passed):
        results.cell(claim.args[0].removeprefix("interop."), str(spec.params["way"]), report)
    return report


def pytest_sessionfinish() -> None:
    results.write()
