"""What a picture of the lineage shows: data, drawn in ``picture`` and made a file of in ``page_file``."""

from __future__ import annotations

import shlex
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from lineage_orch.errors import LineageError
from lineage_orch.reports.activity import Day, daily, shared_builds
from lineage_orch.reports.explain import StoredParts, explain
from lineage_orch.reports.follower_wording import follower_lines, follower_state
from lineage_orch.reports.looks import LOOKS
from lineage_orch.reports.status import short_names
from lineage_orch.reports.wording import (
    built_by_line,
    explanation_lines,
    late_line,
    paused,
    promise_detail,
    until,
    when,
)
from lineage_orch.text import count, few, one_line, roughly

if TYPE_CHECKING:
    from lineage_orch.ledger import History, LedgerSnapshot
    from lineage_orch.lineage import Lineage
    from lineage_orch.plan import BuildPlan
    from lineage_orch.reports.explanation import BuiltBy
    from lineage_orch.reports.followers import FollowerStatus
    from lineage_orch.reports.freshness import Promised
    from lineage_orch.reports.status import NodeStatus, SourceStatus, Status

# What is drawn, and in which order where nothing else decides; tests and hooks are not.
KINDS = (
    "producer", "source", "seed", "function", "ephemeral", "model", "snapshot", "semantic_model", "metric",
    "saved_query", "exposure", "follower",
)  # fmt: skip
# Of the sources that a producer loads, and the nodes that a run built, how many are named.
_MOST_NAMED = 12
# How far before the first event the timeline begins.
_BEFORE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in the picture.

    Attributes:
        key: its unique_id; of a producer, ``producer.`` and its name.
        name: what people call it.
        kind: one of :data:`KINDS`.
        state: of a node or follower as ``status --json`` says it, of a source or producer one of those in ``looks``;
            empty for the rest.
        caption: its kind and state in a few words.
        marks: what else is drawn on it: ``late``.
        folder: where it is, outermost first; of a node the package and folders of its file.
        tags: dbt's, of models, snapshots and seeds.
        lines: why it is in this state, and what else there is to tell.
        select: what to hand to dbt to build it and all below it; empty where dbt selects no such thing.
    """

    key: str
    name: str
    kind: str
    state: str
    caption: str
    folder: tuple[str, ...]
    tags: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    select: str = ""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProducerNews:
    """What is known of a producer from elsewhere than the ledger.

    Attributes:
        schedule: when it runs, in a few words; empty: on no schedule.
        lines: its schedules, and how its last run ended, for people.
        has_failed: whether its last run failed.
    """

    schedule: str
    lines: tuple[str, ...]
    has_failed: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: a load, a run of builds, or a failure.

    Attributes:
        kind: which of them.
        at: when (UTC).
        line: for people.
        spared: which part of it, 0 to 1, led to no build: a load that shared an earlier one's build, or brought nothing
            new; of the nodes that a run built, those that came out as they were.
    """

    kind: Literal["load", "build", "failure"]
    at: datetime
    line: str
    spared: float = 0.0


@dataclass(frozen=True)
class Page:
    """A picture of one project and target at one instant.

    Attributes:
        title: the project and the target.
        made_at: when (UTC).
        since: from when on events are shown (UTC).
        tick: the reading of the ledger's clock.
        items: what is drawn, in the order in which it is drawn where nothing else decides.
        edges: parent and child, by the numbers of the items.
        events: in order of time.
        days: what happened day by day, and what dbt took beside what one command per load would have; in order.
    """

    title: str
    made_at: datetime
    since: datetime
    tick: int
    items: tuple[Item, ...]
    edges: tuple[tuple[int, int], ...]
    events: tuple[Event, ...]
    days: tuple[Day, ...] = ()

    @property
    def states(self) -> dict[str, int]:
        """How many there are of each state and mark, in the order of the legend."""
        counts = Counter(state for each in self.items for state in (each.state, *each.marks))
        return {state: counts[state] for state in LOOKS if counts[state]}


def read_page(
    lineage: Lineage,
    snapshot: LedgerSnapshot,
    plan: BuildPlan,
    status: Status,
    history: History,
    *,
    title: str,
    producers: Mapping[str, Sequence[str]],
    since: datetime,
    now: datetime,
    medians: Mapping[str, float],
    stored_parts: StoredParts = lambda _: None,
    built_by: Mapping[str, BuiltBy] | None = None,
) -> Page:
    """Return what there is to show of a project.

    Args:
        producers: the names of those that load each source, by its unique_id.
        since: from when on events are shown (aware).
        now: when this is (aware).
        medians: unique_id -> how many seconds a build of the node takes.
        stored_parts: see :func:`~lineage_orch.reports.explain.explain`.

    Raises:
        ManifestError: the manifest is of other code by now.
    """
    short = short_names(lineage)
    tags = lineage.tags()
    nodes = {each.unique_id: each for each in status.nodes}
    sources = {each.unique_id: each for each in status.sources}
    followers = {each.follower.unique_id: each for each in status.followers}
    seconds = {each.node: each.seconds for each in history.built if each.seconds is not None}
    items: list[Item] = []
    for unique_id in lineage.graph:
        if unique_id in sources:
            by = (built_by or {}).get(unique_id)
            items.append(_source_item(lineage, sources[unique_id], producers.get(unique_id, ()), by, now))
        elif unique_id in nodes:
            why = explain(lineage, snapshot, plan, unique_id, stored_parts=stored_parts, short=short)
            # The picture shows the paths.
            lines = [each for each in explanation_lines(why, now) if not each.startswith("Path: ")]
            items.append(
                _node_item(lineage, nodes[unique_id], lines, tags.get(unique_id, ()), seconds.get(unique_id), now)
            )
        elif unique_id in followers:  # an exposure
            items.append(_follower_item(followers.pop(unique_id), short, now))
        elif (item := _other_item(lineage, unique_id, tags.get(unique_id, ()))) is not None:
            items.append(item)
    items += _producer_items(producers, history, short)
    items += (_follower_item(each, short, now) for each in followers.values())
    items.sort(key=lambda each: (KINDS.index(each.kind), each.folder, each.name))
    numbers = {each.key: number for number, each in enumerate(items)}
    edges = {(numbers[a], numbers[b]) for a, b in lineage.graph.edges if a in numbers and b in numbers}
    edges |= {
        (numbers[f"producer.{name}"], numbers[source])
        for source, names in producers.items()
        for name in names
        if source in numbers
    }
    edges |= {
        (numbers[parent], numbers[unique_id])
        for unique_id, each in followers.items()
        for parent in each.follower.parents
    }
    events = tuple(sorted(_events(history, short, since), key=lambda each: (each.at, each.kind, each.line)))
    # What is young shows its few hours, and not two weeks in which there was nothing.
    start = max(since, events[0].at - _BEFORE) if events else since
    days = daily(lineage, history, medians, start, now)
    return Page(title, now, start, status.tick, tuple(items), tuple(sorted(edges)), events, days)


def with_news(page: Page, news: Mapping[str, ProducerNews]) -> Page:
    """Return the page with what is known of its producers, by their names."""

    def told(item: Item) -> Item:
        found = news.get(item.name) if item.kind == "producer" else None
        if found is None:
            return item
        state = "load_failed" if found.has_failed else ""
        words = [item.caption, found.schedule, LOOKS[state].words if state else ""]
        return replace(item, state=state, caption=" · ".join(filter(None, words)), lines=(*item.lines, *found.lines))

    return replace(page, items=tuple(map(told, page.items)))


def with_promises(page: Page, rows: Iterable[Promised]) -> Page:
    """Return the page with what its sources and nodes promise on freshness, and a mark on what is late."""
    promised = {row.unique_id: row for row in rows}
    names = {each.key: each.name for each in page.items}

    def told(item: Item) -> Item:
        row = promised.get(item.key)
        if row is None or not (detail := promise_detail(row, names)):
            return item
        if not row.is_late or row.late_by is None:
            return replace(item, lines=(*item.lines, f"Promise: {detail}."))
        late = f"late by {roughly(row.late_by.total_seconds())}"
        lines = (late_line(row, names), *item.lines)
        return replace(item, caption=f"{item.caption} · {late}", lines=lines, marks=(*item.marks, "late"))

    return replace(page, items=tuple(map(told, page.items)))


def _source_item(
    lineage: Lineage, source: SourceStatus, producers: Sequence[str], built_by: BuiltBy | None, now: datetime
) -> Item:
    state = "loaded" if source.tick else "never_loaded" if source.has_producer else "no_producer"
    aside = ""
    if source.paused is not None:
        state = "paused"
        aside = f"Paused {paused(source.paused, now)}: its loads are recorded, and build nothing."
    loaded = f"Last loaded {when(source.loaded_at)}, at tick {source.tick}." if source.tick else "Never loaded."
    by = f"Loaded by {few(producers)}." if producers else "" if source.has_producer else "No producer is known."
    if built_by is not None:
        by = f"{built_by_line(source.name, built_by)}."
    record = lineage.sources[source.unique_id]
    below = f"{count(source.models_below, 'model')} downstream."
    return Item(
        source.unique_id,
        source.name,
        "source",
        state,
        f"source · {LOOKS[state].words}",
        (record.package, "sources", record.source_name),
        lines=tuple(filter(None, (aside, loaded, by, below))),
        select=_selector(lineage.selectors.source, source.unique_id),
    )


def _node_item(
    lineage: Lineage,
    node: NodeStatus,
    lines: Sequence[str],
    tags: tuple[str, ...],
    seconds: float | None,
    now: datetime,
) -> Item:
    record = lineage.nodes[node.unique_id]
    built = f"Last built {when(node.built_at)}" if node.tick else "Never built"
    took = f", in {seconds:.1f} s" if seconds is not None else ""
    due = node.held.until if node.held and node.state == "held" else None
    state = f"held until {until(due, now)}" if due else LOOKS[node.state].words
    if node.paused is not None:
        state = f"paused, {state}"
    return Item(
        node.unique_id,
        node.name,
        record.resource_type,
        node.state,
        f"{record.resource_type} · {state}",
        lineage.folder(node.unique_id),
        tags,
        (*lines, f"{built}{took}."),
        _selector(lineage.selectors.node, node.unique_id),
    )


def _other_item(lineage: Lineage, unique_id: str, tags: tuple[str, ...]) -> Item | None:
    """Return what dbt builds nothing of: an exposure, say, or an ephemeral model."""
    resource_type, package, name = (*unique_id.split(".", 2), "", "")[:3]
    kind = "ephemeral" if resource_type == "model" else resource_type
    if kind not in KINDS:
        return None
    folder = lineage.folder(unique_id) if kind == "ephemeral" else (package, f"{kind}s")
    return Item(unique_id, name, kind, "", kind.replace("_", " "), folder, tags)


# A state of a follower that no node has, and the one that it looks like.
_LOOKS_LIKE = {"running": "due", "never_run": "never_built"}


def _follower_item(status: FollowerStatus, short: Mapping[str, str], now: datetime) -> Item:
    follower = status.follower
    kind, _, rest = follower.unique_id.partition(".")
    folder = (rest.partition(".")[0], f"{kind}s") if kind == "exposure" else (f"{kind}s",)
    return Item(
        follower.unique_id,
        follower.name,
        kind,
        _LOOKS_LIKE.get(status.state, status.state),
        f"{kind} · {follower_state(status, short, now)}",
        folder,
        lines=tuple(follower_lines(status, short, now)),
    )


def _selector(write: Callable[[str], str], unique_id: str) -> str:
    """Return dbt's options to build this and all below it; of this alone where a ``+`` would mean something else."""
    try:
        written = write(unique_id)
    except LineageError:
        return ""
    return "--select " + shlex.quote(written if "," in written else f"{written}+")


def _producer_items(
    producers: Mapping[str, Sequence[str]], history: History, short: Mapping[str, str]
) -> Iterator[Item]:
    loads: dict[str, list[str]] = {}
    for source, names in producers.items():
        for name in names:
            if source in short:
                loads.setdefault(name, []).append(short[source])
    last = {each.producer: each for each in history.loads}
    for name, sources in loads.items():
        lines = [f"Loads {few(sorted(sources), most=_MOST_NAMED)}."]
        if name in last:
            lines.append(f"Last load {when(last[name].at)}.")
        yield Item(f"producer.{name}", name, "producer", "", "producer", ("producers",), (), tuple(lines))


def _events(history: History, short: Mapping[str, str], since: datetime) -> Iterator[Event]:
    shared = shared_builds(history)
    for load in history.loads:
        if not load.baseline:
            by = f" by {load.producer}" if load.producer else ""
            line = f"{short.get(load.source, load.source)} was loaded{by}, at tick {load.tick}"
            if load.unchanged:
                line += ", and brought nothing new"
            elif load.update_id in shared:
                line += f", and shared the build at tick {shared[load.update_id]} with an earlier load"
            yield Event("load", load.at, line, float(load.unchanged or load.update_id in shared))
    runs: dict[int, list[int]] = {}
    for number, built in enumerate(history.built):
        runs.setdefault(built.tick, []).append(number)
    before = 0
    for tick, numbers in sorted(runs.items()):
        of_run = [history.built[number] for number in numbers]
        begun, done = history.begun.get(tick), max(each.at for each in of_run)
        first, last = (bisect(history.loads, at, key=lambda each: each.tick) for at in (before, tick))
        took_in = [each for each in history.loads[first:last] if not (each.baseline or each.unchanged)]
        line = f"{count(of_run, 'node')} built at tick {tick}"
        if begun is not None and done > begun:
            line += f" in {(done - begun).total_seconds():.0f} s"
        if took_in:
            line += f", after {count(took_in, 'load')}"
            line += f" of {few(sorted({short.get(each.source, each.source) for each in took_in}))}"
        line += f": {few((short.get(each.node, each.node) for each in of_run), most=_MOST_NAMED)}"
        if same := sum(not each.is_changed for each in of_run):
            line += f"; {same} came out the same"
        before = tick
        yield Event("build", max(begun or done, since), line, same / len(of_run))
    for failure in history.failed:
        times = f" for the {failure.times}th time" if failure.times > 3 else ""
        message = one_line(failure.message, most=200)
        yield Event("failure", failure.at, f"{short.get(failure.node, failure.node)} failed{times}: {message}")
