"""The report: one HTML file that opens from disk without a network, and the same as Markdown.

What it says first is the headline in its regime, then the table, then what the world does not model.
Figures stand inline as SVG (and beside it in figures/), light or dark as the reader's machine is set:
the page restyles the writer's few colours, the files stay as drawn. No script, no font, no link is
needed to read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from grove_lab.compare.headline import finding, short_names
from grove_lab.compare.judging import Row, Table
from grove_lab.compare.manifest import Manifest, short_digest
from grove_lab.compare.table import cells_of, change, figure, footnotes

CAPTIONS = {
    "forest": "A ratio right of 1 is more, left of it less; colours say whether that is better. An "
    "interval inside the grey band could as well be chance between two worlds of the same protocol.",
    "trade": "Each arrow is one seed: the same world, run with one protocol and then with the other.",
    "delivery": "Thin lines are single seeds, thick ones the medians over seeds.",
    "series": "Time 0 is the end of settling.",
    "shape": "Hops as the protocol counts them (GossipSub's wire format carries no count: its figure is "
    "1); neighbours as membership counts them.",
    "boxes": "From the 5th to the 95th percentile of deliveries, the box from the 25th to the 75th, the "
    "mark at the median.",
    "spacetime_a": "A line per node, time downwards, an arrow per message: how the message that took "
    "longest of all seeds came to its last receiver, and what else passed between these nodes.",
    "spacetime_b": "The same for the other side; the worst message need not be the same one.",
    "scaling": "Dots are runs, lines go through their medians.",
}

STYLE = """
:root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#1d2329;--pale:#68727c;--line:#e3e5e2;
--good:#00795a;--bad:#b84a00;--same:#00688f;--open:#8a6a00;--soft:#f2f3f0;--a:#0072b2;--b:#d55e00;
--band:#9aa5b1}
@media(prefers-color-scheme:dark){:root{--paper:#14181c;--card:#1b2127;--ink:#e6e9ec;--pale:#98a3ae;
--line:#2e363e;--good:#3fcf9f;--bad:#ff9257;--same:#5cc2ea;--open:#e0b84a;--soft:#222a31;--a:#5ab4f0;
--b:#ff8a45;--band:#76828e}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-font-smoothing:antialiased}
main{max-width:1140px;margin:0 auto;padding:44px 28px 80px}
h1{font-size:15px;letter-spacing:.04em;font-weight:600;color:var(--pale);margin:0 0 14px}
h1 b{color:var(--ink)}h1 .a{color:var(--a)}h1 .b{color:var(--b)}
.headline{font-size:29px;line-height:1.28;font-weight:650;letter-spacing:-.012em;margin:0 0 10px;
max-width:30em;text-wrap:balance}
section+section{margin-top:56px}
.regime{color:var(--pale);margin:0 0 30px;max-width:62em}
h2{font-size:20px;margin:52px 0 14px;letter-spacing:-.01em}h3{font-size:16px;margin:30px 0 12px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:14.5px;font-variant-numeric:tabular-nums}
th{color:var(--pale);font-weight:500;font-size:13px;text-align:right;padding:11px 12px 9px;
border-bottom:1px solid var(--line);white-space:nowrap}
td{padding:8px 12px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
tr:last-child td{border-bottom:0}th:first-child,td:first-child,.word{text-align:left}
tr.primary td{font-weight:650;background:var(--soft)}td.word{white-space:normal;min-width:13em}
.better{color:var(--good);font-weight:600}.worse{color:var(--bad);font-weight:600}
.equal,.identical{color:var(--same)}.undecided,.refused{color:var(--open)}
.notes{color:var(--pale);font-size:14px;margin:10px 2px;max-width:70em}
.failed{color:var(--bad);font-weight:600}
.honesty{border:1px solid var(--line);border-left:4px solid var(--open);background:var(--card);
border-radius:6px;padding:14px 18px;margin:26px 0;font-size:15px;max-width:70em}
.live{border-left-color:var(--same)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:18px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:12px 12px 14px}
figure svg{width:100%;height:auto;display:block}
figure.wide{grid-column:1/-1}figure.wide svg{max-width:820px;margin:0 auto}
figcaption{color:var(--pale);font-size:13.5px;padding:6px 10px 0}
details{margin:12px 0;border:1px solid var(--line);border-radius:8px;background:var(--card);
padding:2px 16px}
summary{cursor:pointer;padding:9px 0;font-weight:550}
pre{overflow-x:auto;font:13px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace;margin:4px 0 14px}
code{font:.92em ui-monospace,"SF Mono",Menlo,Consolas,monospace;background:var(--soft);padding:2px 6px;
border-radius:4px}
details .scroll{border:0;margin-bottom:14px}
svg>rect[fill=white]{fill:transparent}svg text[stroke=white]{stroke:var(--card)}
svg [fill="#222222"]{fill:var(--ink)}svg [fill="#767676"]{fill:var(--pale)}
svg [stroke="#767676"]{stroke:var(--pale)}svg [stroke="#e4e4e4"]{stroke:var(--line)}
svg [fill="#0072B2"]{fill:var(--a)}svg [stroke="#0072B2"]{stroke:var(--a)}
svg [fill="#D55E00"]{fill:var(--b)}svg [stroke="#D55E00"]{stroke:var(--b)}
svg [fill="#9aa5b1"]{fill:var(--band)}svg [fill="#009E73"]{fill:var(--good)}
svg [stroke="#009E73"]{stroke:var(--good)}svg [fill="#b84a00"]{fill:var(--bad)}
svg [stroke="#b84a00"]{stroke:var(--bad)}
@media print{main{max-width:none;padding:0}figure,.scroll{break-inside:avoid}}
"""


def html(
    manifest: Manifest,
    tables: Sequence[Table],
    regimes: Sequence[str],
    figures: Mapping[str, str],
    honesty: str,
) -> str:
    """The whole file. regimes: where each table holds."""
    study = manifest.study
    title = " vs ".join(side.label for side in study.sides)
    body = [f"<h1>grove compare &nbsp; {_sides(manifest)}</h1>"]
    if manifest.stopped:
        body.append(f"<p class=regime>Stopped {escape(manifest.stopped)}.</p>")
    for table, where in zip(tables, regimes, strict=True):
        body.append(
            f"<section><p class=headline>{escape(_sentence(table))}</p>"
            f"<p class=regime>in {escape(where)}</p>{_table(table)}</section>"
        )
    live = " live" if manifest.label == "live" else ""
    body.append(f"<div class='honesty{live}'><b>What this does not know.</b> {escape(honesty)}</div>")
    body.append(f"<h2>Pictures</h2>{_pictures(tables, figures)}")
    body.append("<h2>Everything else</h2>")
    body += [_beside(table) for table in tables]
    body += [_seeds(table) for table in tables]
    body.append(_profiles(manifest))
    body.append(_origin(manifest))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _sides(manifest: Manifest) -> str:
    first, *others = (escape(side.label) for side in manifest.study.sides)
    rest = " &nbsp;vs&nbsp; ".join(f"<b class=b>{one}</b>" for one in others)
    live = " &nbsp;·&nbsp; live" if manifest.label == "live" else ""
    return f"<b class=a>{first}</b> &nbsp;vs&nbsp; {rest}{live}"


def _sentence(table: Table) -> str:
    said = finding(table)
    named = said.startswith(short_names(table.a, table.b))  # a plugin's name keeps its small letter
    return said if named else said[0].upper() + said[1:]


def _table(table: Table) -> str:
    a, b = short_names(table.a, table.b)
    head = "".join(
        f"<th{' class=word' if one == 'verdict' else ''}>{escape(one)}</th>"
        for one in ("metric", a, b, "ratio", table.interval, "wins", "effect dz", "p", "verdict")
    )
    failed = "".join(
        f"<p class=failed>left out: {escape(side)}, seed {seed}: {escape(why)}</p>"
        for side, seed, why in table.failed
    )
    rows = "".join(map(_row, table.rows))
    notes = " ".join(footnotes(table))
    return (
        f"{failed}<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"</div><p class=notes>{escape(notes)}</p>"
    )


def _row(row: Row) -> str:
    *cells, verdict = cells_of(row)
    effect = "-" if row.dz is None else f"{row.dz:+.1f}"
    p = "-" if row.p_adjusted is None else _p(row.p_adjusted)
    tip = ""
    if row.bca is not None:
        low, high = (change(row, end) for end in row.bca)
        tip = f" title='bootstrap (BCa): [{low}, {high}]'"
    middle = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return (
        f"<tr{' class=primary' if row.is_primary else ''}{tip}><td>{escape(row.label)}</td>{middle}"
        f"<td>{effect}</td><td>{p}</td>"
        f"<td class='word {row.word.replace(' ', '-')}'>{escape(verdict)}</td></tr>"
    )


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}".replace("e-0", "e-")


def _pictures(tables: Sequence[Table], figures: Mapping[str, str]) -> str:
    """The figures, under the table they belong to where there are several."""
    if len(tables) == 1:
        return f"<div class=figures>{_figures(figures)}</div>"
    found = []
    for number, table in enumerate(tables, start=1):
        own = {name: svg for name, svg in figures.items() if name.endswith(f"-{number}")}
        a, b = short_names(table.a, table.b)
        title = f"{escape(a)} and {escape(b)}, {table.nodes:,} nodes"
        found.append(f"<h3>{title}</h3><div class=figures>{_figures(own)}</div>")
    rest = {name: svg for name, svg in figures.items() if "-" not in name}
    if rest:
        found.append(f"<h3>All sizes</h3><div class=figures>{_figures(rest)}</div>")
    return "".join(found)


def _figures(figures: Mapping[str, str]) -> str:
    found = []
    for name, svg in figures.items():
        kind = name.partition("-")[0]
        wide = " class=wide" if kind in ("forest", "scaling") else ""
        caption = escape(CAPTIONS.get(kind, ""))
        found.append(f"<figure{wide}>{svg.strip()}<figcaption>{caption}</figcaption></figure>")
    return "".join(found)


def _beside(table: Table) -> str:
    """What was measured without a verdict: the means, for whoever wonders."""
    if not table.beside:
        return ""
    rows = "".join(
        f"<tr><td>{escape(row.metric)}</td><td>{figure(row.a)}</td><td>{figure(row.b)}</td>"
        f"<td>{change(row, row.estimate)}</td></tr>"
        for row in table.beside
    )
    a, b = short_names(table.a, table.b)
    return (
        f"<details><summary>Also measured, without a verdict{_at(table)}</summary><div class=scroll>"
        f"<table><tr><th>metric</th><th>{escape(a)}</th><th>{escape(b)}</th><th>ratio</th></tr>{rows}"
        "</table></div></details>"
    )


def _seeds(table: Table) -> str:
    rows = [row for row in table.rows if row.values]
    if not rows:
        return ""
    head = "".join(f"<th colspan=2>{escape(row.label)}</th>" for row in rows)
    lines = []
    for index, (seed, _, _) in enumerate(rows[0].values):
        cells = "".join(
            f"<td>{figure(row.values[index][1])}</td><td>{figure(row.values[index][2])}</td>"
            for row in rows
        )
        lines.append(f"<tr><td>{seed}</td>{cells}</tr>")
    a, b = short_names(table.a, table.b)
    return (
        f"<details><summary>Every seed: {escape(a)}, then {escape(b)}{_at(table)}</summary>"
        f"<div class=scroll><table><tr><th>seed</th>{head}</tr>{''.join(lines)}</table></div></details>"
    )


def _at(table: Table) -> str:
    return f" ({table.nodes:,} nodes, {escape(short_names(table.a, table.b)[1])})"


def _profiles(manifest: Manifest) -> str:
    blocks = "".join(
        f"<details><summary>{escape(name)}: every parameter</summary><pre>{escape(toml)}</pre></details>"
        for name, toml in manifest.profiles.items()
    )
    scenario = (
        f"<details><summary>The scenario, {escape(manifest.study.scenario)}</summary>"
        f"<pre>{escape(manifest.study.scenario_text)}</pre><p class=notes>and on top: "
        f"{escape(', '.join(manifest.study.sets)) or 'nothing'}</p></details>"
    )
    return scenario + blocks


def _origin(manifest: Manifest) -> str:
    ran = manifest.software
    again = (
        "<p class=notes>Again: <code>grove reproduce manifest.json</code></p>"
        if manifest.label == "virtual"
        else "<p class=notes>Runs of real processes: another run gives other figures.</p>"
    )
    facts = (
        f"manifest {short_digest(manifest)} · Grove {ran.grove} {ran.commit[:10]} · {ran.python} on "
        f"{ran.platform} · {manifest.cpu} · {manifest.started} to {manifest.ended} · "
        f"streams {manifest.streams} · figures are {manifest.licence}"
    )
    return f"{again}<p class=notes>{escape(facts)}</p><pre>{escape(manifest.command)}</pre>"


def markdown(
    manifest: Manifest,
    tables: Sequence[Table],
    regimes: Sequence[str],
    figures: Mapping[str, str],
    honesty: str,
) -> str:
    """The same, for a repository or an issue."""
    lines = [f"# {' vs '.join(side.label for side in manifest.study.sides)}", ""]
    lines += [f"Stopped {manifest.stopped}.", ""] if manifest.stopped else []
    for table, where in zip(tables, regimes, strict=True):
        a, b = short_names(table.a, table.b)
        lines += [f"**{_sentence(table)}**", "", f"In {where}.", ""]
        lines += [f"Left out: {side}, seed {seed}: {why}" for side, seed, why in table.failed]
        lines += [
            f"| metric | {a} | {b} | ratio | {table.interval} | wins | verdict |",
            "|---|--:|--:|--:|--:|--:|---|",
        ]
        for row in table.rows:
            name = f"**{row.label}**" if row.is_primary else row.label
            lines.append(f"| {name} | {' | '.join(cells_of(row)).replace('*', chr(92) + '*')} |")
        lines += ["", *(note.replace("*", "\\*") for note in footnotes(table)), ""]
    lines += [f"> {honesty}", ""]
    lines += [f"![{name}](figures/{name}.svg)" for name in figures]
    lines += ["", f"Again: `grove reproduce manifest.json` (manifest {short_digest(manifest)})", ""]
    return "\n".join(lines)
