"""The report: whole in one file, well formed, safe against its own labels, open without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from grove_lab import geography
from grove_lab.compare import figures, headline, manifest, report, runs
from grove_lab.compare.judging import judge
from grove_lab.compare.pairing import execute, here, plan

SMALL = Path(__file__).with_name("small.toml")
SEEDED = plan(SMALL, ["broadcast=plumtree", "broadcast=flood"], seeds=[1, 2], sizes=[8])
HOSTILE = '<script>alert("1")</script>&'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two sizes with a control, whose one side is called something rude."""
    study = plan(
        SMALL, ["broadcast=plumtree", "broadcast=flood"], seeds=range(1, 7), sizes=[8, 12], is_aa=True,
        sets=["faults.quake.kind=crash", "faults.quake.share=0.2", "faults.quake.at=3"],
    )  # fmt: skip
    outcomes = execute(study, here)
    rude = [msgspec.structs.replace(study.sides[1], label=HOSTILE)]
    for one in outcomes:
        one.side = HOSTILE if one.side == "broadcast=flood" else one.side
    study = msgspec.structs.replace(study, sides=(study.sides[0], *rude, study.sides[2]))
    tables = judge(study, outcomes, primary="latency_p95_ms", margin=0.03)
    where = [headline.regime(study.world(one.nodes), one.pairs) for one in tables]
    made = manifest.made(
        study,
        outcomes,
        primary="latency_p95_ms",
        margin=0.03,
        command="grove compare",
        started="",
        ended="",
    )
    drawn = figures.draw(study, outcomes, tables)
    path = tmp_path_factory.mktemp("report")
    said = (made, tables, where, drawn, headline.HONESTY)
    (path / "report.html").write_text(report.html(*said))
    (path / "report.md").write_text(report.markdown(*said))
    (path / "figures").mkdir()
    for name, svg in drawn.items():
        (path / "figures" / f"{name}.svg").write_text(svg)
    runs.write(outcomes, path)
    return path


@pytest.mark.claim("compare.report")
def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    without_names = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(
        r"(?i)https?:|//[a-z]|@import|url\(|<script|<link|<img|<iframe| src=", without_names
    )


def test_labels_are_shown_not_run(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_every_element_is_closed(folder: Path) -> None:
    open_now: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "br"):
                open_now.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_now.pop() == tag

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

    Checker().feed((folder / "report.html").read_text())
    assert open_now == []


def test_figures_are_whole_svg_files(folder: Path) -> None:
    names = sorted(path.stem for path in (folder / "figures").iterdir())
    # Tables 2 and 4 are the control's, of which only the forest is drawn.
    assert names == sorted(
        ["forest-1", "forest-2", "forest-3", "forest-4", "scaling"]
        + [
            f"{kind}-{number}"
            for kind in ("delivery", "boxes", "trade", "series", "shape")
            for number in (1, 3)
        ]
    )
    for path in (folder / "figures").iterdir():
        root = ElementTree.fromstring(path.read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "nan" not in path.read_text()


def test_what_it_does_not_know_stands_in_it(folder: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "not modelled: congestion control" in text
        assert "small (12 nodes, links of 10-50 ms, 100 B × 10/s, faults: crash of 20 % at 3 s" in text


def test_boxes_stand_for_regions_where_there_are_some() -> None:
    """Receivers far from everybody get theirs later; each box is that of the region's own deliveries."""
    sets = ["network.latency=regions", "measure.deadline=4", "duration=10"]
    study = plan(SMALL, ["broadcast=plumtree", "broadcast=flood"], seeds=[1, 2], sizes=[40], sets=sets)
    a, b = (execute(study, here)[at::2] for at in (0, 1))
    places = a[0].regions
    assert set(places) <= set(geography.STOCK["gossipsub-interop"].names)
    assert len(places) > 3
    assert all(ends == sorted(ends) and len(ends) == 5 for ends in places.values())
    drawn = figures.boxes(a, b)
    assert drawn is not None
    ElementTree.fromstring(drawn)
    assert "Time to delivery, by region" in drawn
    assert drawn.count("<title>europe</title>") == 2
    assert "seed by seed" in (figures.boxes(*(execute(SEEDED, here)[at::2] for at in (0, 1))) or "")


def test_a_live_report_says_so_over_its_intervals_and_one_that_stopped_says_why() -> None:
    outcomes = execute(SEEDED, here)
    tables = judge(SEEDED, outcomes, primary="latency_p95_ms", margin=0.03, label="live")
    made = manifest.made(
        SEEDED, outcomes, primary="latency_p95_ms", margin=0.03, command="", started="", ended="",
        label="live", stopped="after 2 of 9 seeds: the budget of 10 s was spent",
    )  # fmt: skip
    drawn = figures.draw(SEEDED, outcomes, tables)
    assert "each with its 95 % interval, live" in drawn["forest"]
    for write in (report.html, report.markdown):
        said = write(made, tables, ["here"], drawn, "")
        assert "95 % interval, live" in said
        assert "Stopped after 2 of 9 seeds: the budget of 10 s was spent." in said


def test_the_control_is_drawn_as_a_band(folder: Path) -> None:
    assert "A against A (measured)" in (folder / "figures" / "forest-1.svg").read_text()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_opens_it_from_disk(folder: Path, tmp_path: Path) -> None:
    """Headless, with every name resolving to nowhere."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}", "--dump-dom",
            (folder / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.count("<svg") == 15
    assert "grove reproduce manifest.json" in done.stdout
