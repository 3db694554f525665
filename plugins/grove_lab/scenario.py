"""A scenario: a world and what happens in it, as a TOML file.

    nodes = 1000                      how many, who they are, how they meet
    [classes.super]                   kinds of nodes: share, uplink, region, own plugins
    [join]  [network]  [cpu]          how they enter; what is between them; what work costs
    [workloads.news]                  what is published, by whom, how often
    [faults.quake]                    what goes wrong, when
    [invariants]  [measure]           what must hold meanwhile; what is written down
    [roles]  [plugins.hyparview]      the protocols, as in grove.toml, over `profile`

Durations are seconds of virtual time, sizes bytes, rates per second of virtual time, shares
fractions. Everything is checked before anything runs, and all mistakes are told at once with file
and line. Workloads, faults and classes are named tables, so that ``--set faults.quake.share=0.95``
can reach every value.

What is not modelled: congestion control, the receiver's downlink, NAT, memory and the scheduler of
the machines. `LIMITS` says so wherever results are shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from grove_core.errors import ConfigError, GroveError
from grove_core.layers import Layer, Layers, Origin, Problem, in_order
from grove_core.sources import from_bytes, from_flags, shown
from grove_core.words import did_you_mean
from grove_lab import geography

SCENARIOS = Path(__file__).parent / "scenarios"
"""Where the stock scenarios lie, one TOML file each."""

LIMITS = (
    "not modelled: congestion control and slow start, the receiver's downlink, packet sizes, NAT, "
    "memory pressure, other programs on the machine"
)
"""What a result of this world does not know; shown beside every report."""

Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Positive = Annotated[float, Meta(gt=0, le=31_536_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 40)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]

S = TypeVar("S", bound=msgspec.Struct)


class NoSuchScenario(GroveError):
    """Neither a stock scenario nor a file; the text says what there is."""

    exit_code = 6


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the tables."""


class Class(Table, frozen=True, kw_only=True):
    """[classes.NAME]: one kind of node. Shares are weights; they need not sum to 1."""

    share: Annotated[float, Meta(gt=0)] = 1.0
    profile: str = ""  # instead of the scenario's
    uplink: Annotated[float, Meta(ge=0)] | None = None  # bytes/s; 0: unlimited; absent: the network's
    region: str = ""  # where all of this class live; empty: drawn by the regions' weights
    cpu: Annotated[float, Meta(gt=0, le=1e6)] = 1.0  # times slower than [cpu] says
    clock: Annotated[float, Meta(gt=0, le=100)] = 1.0  # its seconds per true second
    senders: bool = True  # whether workloads may draw it
    attacker: bool = False  # takes part and is not one of us: never drawn, no receiver, may `withhold`
    late: Seconds = 0.0  # s after the others that these start (dial)
    dials: Annotated[int, Meta(ge=0, le=1000)] = 0  # instead of the join's (dial); 0: as many
    meets: tuple[str, ...] = ()  # classes whose nodes these dial (dial); empty: anybody
    hosts: Annotated[int, Meta(ge=0, le=65_536)] = 0  # addresses all of these share; 0: not known


class Join(Table, frozen=True, kw_only=True):
    """[join]: how nodes enter.

    serial: node i starts at i * spacing and joins through node 0, as in HyParView's evaluation.
    random: the same, through a random earlier node.
    dial: all start at drawn moments of the first `start` seconds, then each dials `dials` random
        others, as GossipSub experiments do. full: everybody knows everybody (small groups).
    """

    pattern: Literal["serial", "random", "dial", "full"] = "serial"
    spacing: Seconds = 0.1  # s between two starts (serial, random)
    start: Positive = 1.0  # s over which all start (dial, full)
    dials: Annotated[int, Meta(ge=1, le=1000)] = 20  # peers each node dials (dial)
    settle: Seconds = 30.0  # s after the last start before time 0 of workloads, faults and invariants


class Network(Table, frozen=True, kw_only=True):
    """[network]: what is between the nodes. One-way delays."""

    latency: Literal["constant", "uniform", "regions", "clusters"] = "uniform"
    delay: Seconds = 0.05  # s (constant; clusters: to another cluster)
    cluster: Annotated[int, Meta(ge=1, le=10_000_000)] = 10  # nodes of one, in order (clusters)
    near: Seconds = 0.0025  # s (clusters): inside one
    low: Seconds = 0.01  # s (uniform): drawn once per link, the same both ways
    high: Seconds = 0.05  # s (uniform)
    jitter: Annotated[float, Meta(ge=0, le=2)] = (
        0.0  # sigma of a lognormal factor on each message's delay
    )
    geography: str = "gossipsub-interop"  # (regions) a stock one
    uplink: Annotated[float, Meta(ge=0)] = 0.0  # bytes/s of each node, first in first out; 0: unlimited
    overhead: Annotated[int, Meta(ge=0, le=1500)] = 0  # bytes added to each message for headers
    loss: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # chance that a transmission is lost and repeated
    retransmit: Positive = 0.2  # s until a lost transmission is repeated; doubles each time
    setup_trips: Annotated[float, Meta(ge=0, le=10)] = (
        1.0  # round trips of a new connection (QUIC 1, TCP 3)
    )
    idle: Positive = 60.0  # s until a connection that nobody holds closes
    dial_timeout: Positive = 15.0  # s
    disk: Seconds = 0.0  # s until a saved record is durable


class Cpu(Table, frozen=True, kw_only=True):
    """[cpu]: seconds of one core. Inputs of a node queue for it, first in first out."""

    message: Seconds = 0.0  # each message received
    verify: Seconds = 0.0  # each signature received (Ed25519 in Python: 85e-6, consensus survey 3.1)
    sign: Seconds = 0.0  # each signature made; what is sent next leaves after it
    send: Seconds = 0.0  # each message sent, to each receiver
    shared: bool = False  # all nodes stand on one core, as in a laboratory on one machine


class Workload(Table, frozen=True, kw_only=True):
    """[workloads.NAME]: a stream of publications. Times count from the end of settling.

    one: always the same drawn node. random: drawn per message. all: each node in turn. leader (propose):
        the one that leads, as far as the nodes know; a drawn one while nobody does.
    client (propose): member: the node that proposes waits for its own commit. apart: a client `away` of
        every node asks it, those who answer clients reply when they commit, and it believes f + 1 of
        them (answers = "weak") or the node it asked ("one"). Its own line and processor are free.
    """

    kind: Literal["publish", "propose"] = "publish"  # to broadcast, or to consensus
    topic: Name = "lab"
    senders: Literal["one", "random", "all", "leader"] = "random"
    classes: tuple[str, ...] = ()  # only nodes of these publish; empty: all but attackers
    receivers: tuple[str, ...] = ()  # only nodes of these are counted; empty: all but attackers
    client: Literal["member", "apart"] = "member"
    away: Seconds = 0.0  # s, one way (client = "apart")
    answers: Literal["weak", "one"] = "weak"
    timeout: Seconds = 0.0  # s a client waits; an answer after that is none. 0: for ever
    rate: Annotated[float, Meta(gt=0, le=1e6)] = 1.0  # messages/s, all senders together
    arrivals: Literal["regular", "poisson"] = "regular"
    size: Annotated[int, Meta(ge=16, lt=1 << 24)] = 256  # bytes
    size_high: Annotated[int, Meta(ge=0, lt=1 << 24)] = (
        0  # bytes; sizes uniform up to this; 0: all `size`
    )
    start: Seconds = 0.0
    stop: Seconds = 0.0  # 0: until duration
    count: Annotated[int, Meta(ge=0, le=10_000_000)] = 0  # at most so many messages; 0: no limit


Kind = Literal[
    "crash", "restart", "churn", "partition", "isolate", "clog", "slow", "clock", "stop", "withhold"
]


class Fault(Table, frozen=True, kw_only=True):
    """[faults.NAME]: one thing that goes wrong. Times count from the end of settling.

    crash: `share` of the living (or `nodes`) end at once, for good, or for `lasts` seconds.
    restart: as crash, back after `lasts` (default 10 s) with what their disk holds.
    churn: sessions and absences drawn from `session` and `absence`, while it lasts.
    stop: as crash, but in order: goodbyes are said.
    partition: `share` of the nodes and the rest do not reach each other; with one_way only what
        the share sends is lost. isolate: each of `share` (or `nodes`) reaches nobody.
    clog: what these send waits in their queues. slow: their processor is `factor` times slower.
    clock: their clocks run `factor` times as fast.
    withhold: these attackers do not pass on `drop` of the messages (of `authors`, if named). They need
        not live yet.
    noticed: how a dead link is seen. reset: at once, by everybody who holds it, as TCP tells of a
        process that ended. silent: after `after` seconds, as keepalive tells of a pulled cable.
        senders: only by who sends over it, as without either.
    """

    kind: Kind
    at: Seconds = 0.0
    lasts: Seconds = 0.0  # 0: to the end
    share: Share = 0.0
    nodes: tuple[Annotated[int, Meta(ge=0)], ...] = ()  # by index, instead of a share
    classes: tuple[str, ...] = ()  # only these; empty: all
    noticed: Literal["reset", "silent", "senders"] = "reset"
    after: Seconds = 30.0  # s (silent; partition and isolate: until the links across are given up)
    one_way: bool = False
    session: Literal["exponential", "weibull", "lognormal"] = "exponential"
    session_mean: Positive = 600.0  # s online
    absence_mean: Positive = 60.0  # s offline, exponential
    shape: Annotated[float, Meta(gt=0, le=10)] = 0.5  # Weibull's k, or the lognormal's sigma
    factor: Annotated[float, Meta(gt=0, le=1e6)] = 10.0  # (slow, clock)
    drop: Share = 1.0  # (withhold) of the messages, each drawn once by each attacker
    authors: tuple[str, ...] = ()  # (withhold) only what nodes of these classes publish; empty: all


class Invariants(Table, frozen=True, kw_only=True):
    """[invariants]: what stops the run when it does not hold. Checked from the end of settling."""

    exactly_once: bool = True  # no node delivers a message twice in one life
    delivery: Share = 0.0  # least share of a message's receivers, each message; 0: not checked
    delivery_within: Positive = 20.0  # s after publishing by which that share must be reached
    fault_grace: Seconds = 60.0  # s after a fault's begin and end during which `delivery` is not checked
    symmetric: bool = False  # membership links are known at both ends
    symmetric_within: Positive = 10.0  # s a one-sided link may last
    connected: bool = False  # the graph of the neighbours of the living is in one piece
    redundancy: Annotated[float, Meta(ge=0)] = 0.0  # most duplicates per delivery; 0: not checked
    redundancy_after: Seconds = 15.0  # s in which trees may form before that is checked
    agreement: bool = True  # all members commit the same commands at the same index, in order
    table_limit: Annotated[int, Meta(ge=0)] = 0  # entries any container of a machine may hold; 0: any
    every: Positive = 5.0  # s between two looks at the views and tables


class Measure(Table, frozen=True, kw_only=True):
    """[measure]: what is written down."""

    traffic: bool = True  # count messages and bytes by type: costs about a third of the speed
    deadline: Positive = 20.0  # s after which a message that has not come is counted as lost
    joined: Seconds = 5.0  # s after its start from which a node counts as a receiver
    recovered: Share = 0.99  # share of the delivery before the fault that counts as recovered
    samples: Annotated[int, Meta(ge=1000, le=10_000_000)] = 1_000_000  # latencies kept; beyond, a sample
    series: Positive = 1.0  # s per point of the time series
    paths: Annotated[int, Meta(ge=0, le=1000)] = 20  # nodes from which path lengths are measured
    primary: str = "latency_p99_ms"  # what `grove compare` judges by first
    margin: Annotated[float, Meta(gt=0, lt=1)] = 0.03  # ratios within 1 +- this count as equal


class Scenario(Table, frozen=True, kw_only=True):
    """A whole scenario. `text` and `sets` are where it came from, for manifests and replays."""

    name: str = ""
    description: str = ""
    nodes: Annotated[int, Meta(ge=1, le=10_000_000)] = 100
    duration: Positive = 60.0  # s after settling
    seeds: tuple[int, ...] = (1,)
    profile: str = "simulation"
    join: Join = Join()
    network: Network = Network()
    cpu: Cpu = Cpu()
    classes: dict[str, Class] = {}
    workloads: dict[str, Workload] = {}
    faults: dict[str, Fault] = {}
    invariants: Invariants = Invariants()
    measure: Measure = Measure()
    protocols: dict[str, Any] = {}
    """[roles] and [plugins] of the file, and per class ("classes.NAME") theirs, as trees."""
    path: str = ""
    text: str = ""
    sets: tuple[str, ...] = ()

    @property
    def begins(self) -> float:
        """Virtual time at which settling ends: time 0 of workloads and faults."""
        spread = (
            self.join.spacing * self.nodes
            if self.join.pattern in ("serial", "random")
            else self.join.start
        )
        return spread + self.join.settle

    @property
    def ends(self) -> float:
        """Virtual time at which the run ends."""
        return self.begins + self.duration

    @property
    def digest(self) -> str:
        """32 hex digits that name what is in force, whatever file it came from."""
        bare = msgspec.structs.replace(self, name="", path="", text="", sets=())
        return hashlib.blake2b(msgspec.json.encode(bare, order="sorted"), digest_size=16).hexdigest()

    def class_of(self, name: str) -> Class:
        """A class by name; the one that everybody is if there are none."""
        return self.classes[name] if self.classes else Class()


TABLES: dict[str, type[Table]] = {
    "join": Join, "network": Network, "cpu": Cpu, "invariants": Invariants, "measure": Measure,
}  # fmt: skip
NAMED: dict[str, type[Table]] = {"classes": Class, "workloads": Workload, "faults": Fault}
PROTOCOLS = ("roles", "plugins")
PLAIN = ("description", "nodes", "duration", "seeds", "profile")


class _Top(Table, frozen=True, kw_only=True):
    """The keys above the first table."""

    description: str = ""
    nodes: Annotated[int, Meta(ge=1, le=10_000_000)] = 100
    duration: Positive = 60.0
    seeds: tuple[int, ...] = (1,)
    profile: str = "simulation"


def stock() -> dict[str, Path]:
    """The scenarios that ship with the lab, by name, ascending."""
    return {path.stem: path for path in sorted(SCENARIOS.glob("*.toml"))}


def load(path_or_name: str | Path, sets: Sequence[str] = ()) -> Scenario:
    """A scenario by stock name or path, with ``key=value`` texts applied on top, in order.

    Raises NoSuchScenario, or ConfigError with every mistake at once.
    """
    named = stock()
    text = str(path_or_name)
    path = named.get(text, Path(text))
    if text not in named and not path.is_file():
        there = ", ".join(named)
        raise NoSuchScenario(
            f"no scenario {text!r}{did_you_mean(text, named)} (stock: {there}; or a TOML file's path)"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NoSuchScenario(f"{path}: cannot be read: {error.strerror}") from None
    return parse(data, sets, name=path.stem, place=shown(path), path=str(path.absolute()))


def parse(
    data: bytes | str, sets: Sequence[str] = (), *, name: str = "", place: str = "", path: str = ""
) -> Scenario:
    """A scenario from its text. place: what mistakes are said to be in. Raises ConfigError."""
    data = data.encode() if isinstance(data, str) else data
    problems: list[Problem] = []
    layer = from_bytes(data, Origin("file", place or "scenario", rank=100), problems)
    layers = Layers()
    layers.add(layer)
    for one in from_flags((), sets, problems):
        layers.add(one)
    found = _read(layers, problems)
    if problems or found is None:
        raise ConfigError(in_order(problems))
    return msgspec.structs.replace(
        found, name=name, path=path, text=data.decode(errors="replace"), sets=tuple(sets)
    )


def _read(layers: Layers, problems: list[Problem]) -> Scenario | None:
    values: dict[str, Any] = {}
    known = (*PLAIN, *TABLES, *NAMED, *PROTOCOLS)
    for name in layers.names(()):
        if name not in known:
            hint = did_you_mean(name, known)
            layers.tell(problems, (name,), f"unknown key{hint} (known: {', '.join(known)})")
    top = _subset(layers, PLAIN)
    read = top.read((), _Top, problems)
    if read is not None:
        values.update(msgspec.structs.asdict(read))
    for name, kind in TABLES.items():
        if name in layers.names(()):
            values[name] = layers.read((name,), kind, problems)
    protocols = {name: layers.value((name,)) for name in PROTOCOLS if name in layers.names(())}
    for name, kind in NAMED.items():
        if layers.is_leaf((name,)):
            layers.tell(problems, (name,), f"expected tables, [{name}.NAME]")
            continue
        tables: dict[str, Any] = {}
        for one in layers.names((name,)):
            own = layers
            if name == "classes" and not layers.is_leaf((name, one)):
                inner = [key for key in PROTOCOLS if key in layers.names((name, one))]
                if inner:
                    protocols[f"classes.{one}"] = {key: layers.value((name, one, key)) for key in inner}
                own = _without(layers, (name, one), PROTOCOLS)
            tables[one] = own.read((name, one), kind, problems)
        values[name] = tables
    if problems:
        return None
    scenario = Scenario(protocols=protocols, **values)
    _contradictions(scenario, layers, problems)
    return None if problems else scenario


def _subset(layers: Layers, names: Sequence[str]) -> Layers:
    """Only some of the top-level keys."""
    found = Layers()
    for name in layers.names(()):
        if name in names:
            found.add(Layer({name: layers.value((name,))}, layers.origin((name,))))
    return found


def _without(layers: Layers, table: tuple[str, ...], names: Sequence[str]) -> Layers:
    """One table without some of its keys."""
    found = Layers()
    for name in layers.names(table):
        if name not in names:
            tree: Any = {name: layers.value((*table, name))}
            for part in reversed(table):
                tree = {part: tree}
            found.add(Layer(tree, layers.origin((*table, name))))
    if not found.names(table):
        tree = {}
        for part in reversed(table):
            tree = {part: tree}
        found.add(Layer(tree, layers.origin(table)))
    return found


def _contradictions(scenario: Scenario, layers: Layers, problems: list[Problem]) -> None:
    """What each value by itself does not show."""
    network = scenario.network
    if network.low > network.high:
        layers.tell(problems, ("network", "low"), f"is above high = {network.high}")
    if network.latency == "regions" and network.geography not in geography.STOCK:
        hint = did_you_mean(network.geography, geography.STOCK)
        layers.tell(problems, ("network", "geography"), f"no such geography{hint}")
    else:
        regions = geography.STOCK[network.geography].names if network.geography in geography.STOCK else ()
        for name, one in scenario.classes.items():
            if one.region and one.region not in regions:
                hint = did_you_mean(one.region, regions)
                text = f"no such region{hint} (there are: {', '.join(regions)})"
                layers.tell(problems, ("classes", name, "region"), text)
    if scenario.invariants.redundancy and not scenario.measure.traffic:
        layers.tell(problems, ("invariants", "redundancy"), "needs [measure] traffic = true")
    if scenario.join.pattern == "full" and scenario.nodes > 1000:
        layers.tell(problems, ("join", "pattern"), f"full with {scenario.nodes} nodes; at most 1,000")
    for name, one in scenario.classes.items():
        _are_classes(one.meets, scenario, layers, problems, ("classes", name, "meets"))
        if (one.meets or one.dials or one.late) and scenario.join.pattern != "dial":
            layers.tell(problems, ("classes", name), 'meets, dials and late need [join] pattern = "dial"')
    for name, fault in scenario.faults.items():
        key = ("faults", name)
        _are_classes(fault.classes, scenario, layers, problems, (*key, "classes"))
        _are_classes(fault.authors, scenario, layers, problems, (*key, "authors"))
        if fault.kind == "withhold" and not (
            fault.classes
            and all(scenario.class_of(c).attacker for c in fault.classes if c in scenario.classes)
        ):
            layers.tell(problems, (*key, "classes"), "withhold is for classes with attacker = true")
        if fault.nodes and max(fault.nodes) >= scenario.nodes:
            layers.tell(problems, (*key, "nodes"), f"node {max(fault.nodes)} of {scenario.nodes}")
        if not fault.nodes and not fault.share and fault.kind != "churn":
            layers.tell(problems, (*key, "kind"), "hits nobody: set share or nodes")
        if fault.at > scenario.duration:
            layers.tell(problems, (*key, "at"), f"is after the end, duration = {scenario.duration}")
    for name, workload in scenario.workloads.items():
        _are_classes(workload.classes, scenario, layers, problems, ("workloads", name, "classes"))
        _are_classes(workload.receivers, scenario, layers, problems, ("workloads", name, "receivers"))
        if scenario.classes and not any(
            may_publish(one, kind, workload) for one, kind in scenario.classes.items()
        ):
            layers.tell(problems, ("workloads", name), "nobody publishes: no class may")
        if workload.senders == "leader" and workload.kind != "propose":
            layers.tell(problems, ("workloads", name, "senders"), 'leader needs kind = "propose"')
        if workload.size_high and workload.size_high < workload.size:
            layers.tell(problems, ("workloads", name, "size_high"), f"is below size = {workload.size}")
        if workload.start > scenario.duration:
            layers.tell(
                problems,
                ("workloads", name, "start"),
                f"is after the end, duration = {scenario.duration}",
            )


def _are_classes(
    names: Sequence[str],
    scenario: Scenario,
    layers: Layers,
    problems: list[Problem],
    key: tuple[str, ...],
) -> None:
    for name in names:
        if name not in scenario.classes:
            hint = did_you_mean(name, scenario.classes)
            layers.tell(problems, key, f"no class {name!r}{hint}")


def may_publish(name: str, one: Class, workload: Workload) -> bool:
    """Whether a workload may draw nodes of a class."""
    return one.senders and not one.attacker and (not workload.classes or name in workload.classes)
