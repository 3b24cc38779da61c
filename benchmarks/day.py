"""Row 11: a day of loads, simulated with the real plan_builds and no dbt.

What is assumed, and was chosen before the first run: 40 sources, of which 8 load every 15 minutes, 16 every hour, 10
every 6 hours and 6 once a day, each on the full hour or quarter as cron does, and each load takes 1 to 8 minutes.
400 models in 10 domains, of which one model in 20 reads another domain; one takes 2 to 20 s to build, 4 at a time. A
load sets off a build 15 s later (the default debounce), which takes over all loads until then; while a build runs, the
next one waits for it, as the ledger's lock makes it.

Beside it, the same with cadences that belong to ten systems of four tables each (2 load every 15 minutes, 4 every hour,
3 every 6 hours, 1 once a day): the tables of one system feed one domain and load together, as connectors do. And the
first day again in a project without domains, where a model reads any others.

Coalescing can save no more than there are sources above a model; and whoever builds each quarter hour what began to
load in it saves about as much as can be with models that are never much older than that. Both are told for each day.

By hand, each load is followed by one `dbt build --select source:x+`, and all of its models are built.

And the first day with what was made for it: new data waits some minutes for loads that are running or about to
(``patience``); and two in five of the loads change nothing, which is seen at the half of the models, chosen at random,
whose content is compared after each build (``cutoff``). A run ends a stage at those, and each stage takes two seconds
more, for dbt to start. From load to built is told of the loads that changed something, by the time at which a model
holds them, or is known to come out the same.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.harness import Options, Outcome, Row, run_contender

_START = datetime(2026, 11, 22, tzinfo=UTC)
_DAY = timedelta(days=1)
_CADENCES = ((8, timedelta(minutes=15)), (16, timedelta(hours=1)), (10, timedelta(hours=6)), (6, timedelta(days=1)))
_OF_SYSTEMS = ((2, timedelta(minutes=15)), (4, timedelta(hours=1)), (3, timedelta(hours=6)), (1, timedelta(days=1)))
_DEBOUNCE = 15.0
_THREADS = 4
_STAGE = 2.0
"""Seconds until dbt's first node, of each stage."""


@dataclass(frozen=True)
class Day:
    """A project and its loads."""

    title: str = ""
    by_system: bool = False
    domains: int = 10


_DAYS = (
    Day(),
    Day("the tables of a system load together; ", by_system=True),
    Day("a project without domains; ", domains=1),
)


def _manifest(build_after: Mapping[str, Any] | None, count: int, cutoff: float = 0) -> dict[str, Any]:
    """40 staging models, 160 intermediate ones, 200 marts, in domains; ``build_after`` is set on the marts.

    The content of a share of the models, ``cutoff``, is compared after each build.
    """
    choose = random.Random(40)
    mark = random.Random(15)
    sources = [f"source.shop.raw.table_{number:02d}" for number in range(40)]
    nodes: dict[str, Any] = {}
    domains: list[list[str]] = [[] for _ in range(count)]
    for number in range(400):
        unique_id = f"model.shop.model_{number:03d}"
        freshness = None
        if number < 40:
            domain, parents = number % count, [sources[number]]
        else:
            domain = choose.randrange(count)
            near = domains[domain]
            parents = choose.sample(near, min(len(near), choose.randint(1, 3)))
            if choose.random() < 0.05:
                parents.append(choose.choice(choose.choice(domains)))
            if number >= 200 and build_after is not None:
                freshness = {"build_after": dict(build_after)}
        nodes[unique_id] = {
            "name": f"model_{number:03d}", "resource_type": "model", "package_name": "shop",
            "fqn": ["shop", f"model_{number:03d}"],
            "config": {
                "materialized": "table", "enabled": True, "freshness": freshness,
                "meta": {"lineage_orch": {"cutoff": mark.random() < cutoff}},
            },
            "depends_on": {"nodes": list(dict.fromkeys(parents))},
        }  # fmt: skip
        domains[domain].append(unique_id)
    return {
        "metadata": {"project_name": "shop"},
        "nodes": nodes,
        "sources": {
            each: {"name": each.rpartition(".")[2], "source_name": "raw", "package_name": "shop"} for each in sources
        },
    }


def _loads(sources: list[str], *, by_system: bool) -> list[tuple[datetime, str]]:
    """When each load of the day completes."""
    return sorted((end, source) for _, end, source in _timed_loads(sources, by_system=by_system))


def _timed_loads(sources: list[str], *, by_system: bool) -> list[tuple[datetime, datetime, str]]:
    """When each load of the day begins and completes."""
    choose = random.Random(7)
    cadences = [each for count, each in (_OF_SYSTEMS if by_system else _CADENCES) for _ in range(count)]
    choose.shuffle(cadences)
    if by_system:
        cadences = cadences * 4  # a source's number modulo 10 is its domain
    out = []
    for source, every in zip(sources, cadences, strict=True):
        at = _START + (timedelta(hours=2) if every == _DAY else timedelta())
        while at < _START + _DAY:
            out.append((at, at + timedelta(seconds=choose.uniform(60, 480)), source))
            at += every
    return out


def simulated(build_after: dict[str, Any] | None, debounce: float, number_of_day: int) -> Callable[[], dict[str, Any]]:
    from lineage_orch.deployed.queue import wake_up_time
    from lineage_orch.ledger import LedgerSnapshot, NodeFact
    from lineage_orch.lineage import Lineage
    from lineage_orch.plan import plan_builds

    day = _DAYS[number_of_day]
    lineage = Lineage.from_manifest(_manifest(build_after, day.domains))
    below = {source: lineage.downstream(source) for source in lineage.sources}
    loads = _loads(list(lineage.sources), by_system=day.by_system)
    choose = random.Random(3)
    cost = {node: choose.uniform(2, 20) for node in lineage.nodes}

    def work() -> dict[str, Any]:
        tick = 1
        ticks = dict.fromkeys(lineage.sources, 1)
        facts = {node: NodeFact(1, _START - timedelta(hours=6)) for node in lineage.nodes}
        # What waits for each node: when the loads came that it does not hold yet.
        stale: dict[str, list[datetime]] = {node: [] for node in lineage.nodes}
        lags: list[float] = []
        builds = runs = 0
        free_at = _START
        number = 0
        held_until: datetime | None = None
        while number < len(loads) or held_until is not None:
            # The run that begins takes over the loads that still wait out their own debounce.
            first_load = loads[number][0] + timedelta(seconds=debounce) if number < len(loads) else None
            now = max(min(each for each in (first_load, held_until) if each is not None), free_at)
            while number < len(loads) and loads[number][0] <= now:
                at, source = loads[number]
                tick += 1
                ticks[source] = tick
                for node in below[source]:
                    stale[node].append(at)
                number += 1
            tick += 1
            plan = plan_builds(lineage, LedgerSnapshot(tick, dict(ticks), dict(facts), frozenset(ticks)), now=now)
            held_until = None
            if plan.next_due is not None and plan.next_due < _START + _DAY:
                held_until = wake_up_time(plan.held.values(), plan.next_due, timedelta(seconds=debounce))
            if plan.is_empty:
                continue
            runs += 1
            builds += len(plan.build)
            spent = 0.0
            for node in plan.build:
                spent += cost[node] / _THREADS
                done = now + timedelta(seconds=spent)
                facts[node] = NodeFact(tick, done)
                lags += [(done - at).total_seconds() for at in stale[node]]
                stale[node] = []
            free_at = now + timedelta(seconds=spent)
        by_hand = sum(len(below[source]) for _, source in loads)
        return {
            "builds": builds, "runs": runs, "by_hand": by_hand, "loads": len(loads),
            "stale": sum(map(len, stale.values())),
            "lag": statistics.median(lags), "lag_95": statistics.quantiles(lags, n=20)[-1],
        }  # fmt: skip

    return work


def stepwise(unchanged: float, cutoff: float, patience: float) -> Callable[[], dict[str, Any]]:
    """Return the first day, in stages.

    Args:
        unchanged: the share of the loads that change nothing.
        cutoff: the share of the models whose content is compared.
        patience: seconds.
    """
    from lineage_orch.deployed.queue import wake_up_time
    from lineage_orch.ledger import LedgerSnapshot, Moment, NodeFact
    from lineage_orch.lineage import Lineage
    from lineage_orch.plan import plan_builds

    manifest = _manifest(None, 10, cutoff)
    lineage = Lineage.from_manifest(manifest)
    compared = {node for node, each in manifest["nodes"].items() if each["config"]["meta"]["lineage_orch"]["cutoff"]}
    below = {source: lineage.downstream(source) for source in lineage.sources}
    waiting = sorted(_timed_loads(list(lineage.sources), by_system=False), key=lambda load: (load[1], load[2]))
    by_hand = sum(len(below[source]) for _, _, source in waiting)
    choose = random.Random(3)
    cost = {node: choose.uniform(2, 20) for node in lineage.nodes}
    same = random.Random(40)
    brings = [same.random() >= unchanged for _ in waiting]
    reads = {node: sorted(manifest["nodes"][node]["depends_on"]["nodes"]) for node in lineage.nodes}

    def work() -> dict[str, Any]:
        tick = 1
        ticks = dict.fromkeys(lineage.sources, 1)
        history: dict[str, list[Moment]] = {source: [] for source in lineage.sources}
        changes: dict[str, list[Moment]] = {node: [] for node in lineage.nodes}
        facts = {
            node: NodeFact(
                1, _START - timedelta(hours=6), changed=1, identity=lineage.identity(node),
                content="..." if node in compared else None,
            )
            for node in lineage.nodes
        }  # fmt: skip
        content: dict[str, object] = dict.fromkeys(lineage.sources, 0)
        for node in lineage.nodes:
            content[node] = hash(tuple(content[each] for each in reads[node]))
        stale: dict[str, list[datetime]] = {node: [] for node in lineage.nodes}
        lags: list[float] = []
        builds = runs = stages = number = 0
        free_at = _START
        held_until: datetime | None = None

        def record(now: datetime) -> None:
            nonlocal tick, number
            while number < len(waiting) and waiting[number][1] <= now:
                _, at, source = waiting[number]
                tick += 1
                ticks[source] = tick
                history[source].append(Moment(tick, at))
                if brings[number]:
                    content[source] = number + 1
                    for node in below[source]:
                        stale[node].append(at)
                number += 1

        while number < len(waiting) or held_until is not None:
            first = waiting[number][1] + timedelta(seconds=_DEBOUNCE) if number < len(waiting) else None
            now = max(min(each for each in (first, held_until) if each is not None), free_at)
            began = stages
            while True:
                record(now)
                tick += 1
                soon = now + timedelta(seconds=patience)
                snapshot = LedgerSnapshot(
                    tick, dict(ticks), dict(facts), frozenset(ticks), source_history=history, node_history=changes
                )
                plan = plan_builds(
                    lineage,
                    snapshot,
                    now=now,
                    loading=[source for start, end, source in waiting[number:] if start <= soon and now < end],
                    patience=timedelta(seconds=patience),
                )
                settled = [node for node, since in stale.items() if since and node not in plan.held]
                if plan.is_empty:
                    break
                stages += 1
                builds += len(plan.build)
                spent = _STAGE
                for node in plan.build:
                    spent += cost[node] / _THREADS
                    done = now + timedelta(seconds=spent)
                    holds = hash(tuple(content[each] for each in reads[node]))
                    is_same = node in compared and holds == content[node]
                    content[node] = holds
                    before = facts[node]
                    facts[node] = before._replace(tick=tick, built_at=done, changed=before.changed if is_same else tick)
                    if not is_same:
                        changes[node].append(Moment(tick, done))
                    lags += [(done - at).total_seconds() for at in stale[node]]
                    stale[node] = []
                now += timedelta(seconds=spent)
            runs += stages > began
            free_at = now
            for node in settled:  # nothing that it reads came out other than it was
                lags += [(now - at).total_seconds() for at in stale[node]]
                stale[node] = []
            held_until = None
            if plan.next_due is not None and plan.next_due < _START + _DAY:
                held_until = wake_up_time(plan.held.values(), plan.next_due, timedelta(seconds=_DEBOUNCE))
        return {
            "builds": builds, "runs": runs, "stages": stages, "by_hand": by_hand, "loads": len(waiting),
            "lag": statistics.median(lags), "lag_95": statistics.quantiles(lags, n=20)[-1],
        }  # fmt: skip

    return work


def by_hand(number_of_day: int) -> Callable[[], dict[str, Any]]:
    """One build per load, one after the other as the warehouse's lock (or a concurrency limit of 1) makes it."""
    from lineage_orch.lineage import Lineage

    day = _DAYS[number_of_day]
    lineage = Lineage.from_manifest(_manifest(None, day.domains))
    order = {node: place for place, node in enumerate(lineage.nodes)}
    below = {source: sorted(lineage.downstream(source), key=order.__getitem__) for source in lineage.sources}
    choose = random.Random(3)
    cost = {node: choose.uniform(2, 20) for node in lineage.nodes}

    loads = _loads(list(lineage.sources), by_system=day.by_system)

    def work() -> dict[str, Any]:
        free_at = _START
        lags: list[float] = []
        # No load takes a quarter of an hour, and each begins on one.
        of_quarter: dict[int, set[str]] = {}
        for at, source in loads:
            of_quarter.setdefault(int((at - _START).total_seconds() // 900), set()).update(below[source])
            now = max(at, free_at)
            spent = 0.0
            for node in below[source]:
                spent += cost[node] / _THREADS
                lags.append((now - at).total_seconds() + spent)
            free_at = now + timedelta(seconds=spent)
        busy = free_at - _START
        return {
            "lag": statistics.median(lags), "hours": busy.total_seconds() / 3600,
            "sources": sum(map(len, below.values())) / len(lineage.nodes),
            "least": sum(map(len, of_quarter.values())) / sum(len(below[source]) for _, source in loads),
        }  # fmt: skip

    return work


def measure(options: Options) -> list[Outcome]:
    out = []
    for number_of_day, day in enumerate(_DAYS):
        hand = run_contender(by_hand, number_of_day).said
        out.append(
            Outcome(
                f"{day.title}what there is to save",
                f"1/{hand['sources']:.1f} if all sources loaded at the same moment (so many are upstream of a model); "
                f"1/{1 / hand['least']:.1f} by building each quarter hour what began to load in it",
                None,
            )
        )
        for number, (title, build_after, debounce) in enumerate(
            (
                ("coalescing alone (debounce 15 s, the default): at most 1/3", None, _DEBOUNCE),
                ("coalescing alone, debounce 5 minutes", None, 300.0),
                ("coalescing alone, debounce 15 minutes", None, 900.0),
                ("with build_after of 1 hour on the marts", {"count": 1, "period": "hour"}, _DEBOUNCE),
                ("with build_after of 4 hours on the marts", {"count": 4, "period": "hour"}, _DEBOUNCE),
            )
        ):
            said = run_contender(simulated, build_after, debounce, number_of_day).said
            share = said["builds"] / said["by_hand"]
            out.append(
                Outcome(
                    day.title + title,
                    f"1/{1 / share:.2f}: {said['builds']:,} node builds in {said['runs']} runs against "
                    f"{said['by_hand']:,} for {said['loads']} loads; from load to built: "
                    f"median {said['lag'] / 60:.1f} min, 95 % within {said['lag_95'] / 60:.0f} min (by hand, one "
                    f"build at a time: median {hand['lag'] / 60:.0f} min, and {hand['hours']:.0f} hours of building "
                    "for the day)",
                    None if number else share <= 1 / 3,
                )
            )
    return [*out, *_calm()]


def _calm() -> list[Outcome]:
    out = []
    for title, least, median, most, arguments in (
        ("patience 5 minutes: at most 1/1.7, 95 % within 22 min", 1.7, None, 22, (0.0, 0.0, 300.0)),
        ("patience 15 minutes, the shortest cadence: the same", 1.7, None, 22, (0.0, 0.0, 900.0)),
        ("40 % of the loads change nothing, patience 5 minutes", None, None, None, (0.4, 0.0, 300.0)),
        ("40 % of the loads change nothing, half of the models with cutoff", None, None, None, (0.4, 0.5, 0.0)),
        (
            "40 % of the loads change nothing, half of the models with cutoff, patience 5 minutes: at most 1/3, at a "
            "median of at most 10 min",
            3, 10, None, (0.4, 0.5, 300.0),
        ),
        ("the same, patience 30 minutes: at most 1/3, at a median of at most 10 min", 3, 10, None, (0.4, 0.5, 1800.0)),
        ("patience 5 minutes, all models with cutoff", None, None, None, (0.4, 1.0, 300.0)),
    ):  # fmt: skip
        said = run_contender(stepwise, *arguments).said
        share = said["by_hand"] / said["builds"]
        met = share >= least if least is not None else None
        if median is not None:
            met = met and said["lag"] / 60 <= median
        if most is not None:
            met = met and said["lag_95"] / 60 <= most
        out.append(
            Outcome(
                title,
                f"1/{share:.2f}: {said['builds']:,} node builds in {said['runs']} runs and {said['stages']} stages "
                f"against {said['by_hand']:,} for {said['loads']} loads; from load to built: median "
                f"{said['lag'] / 60:.1f} min, 95 % within {said['lag_95'] / 60:.0f} min",
                met,
            )
        )
    return out


ROWS = [
    Row("day", "a day of loads, in node builds (simulated)", "one `dbt build --select source:x+` per load", measure)
]
