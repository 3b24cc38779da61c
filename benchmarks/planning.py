"""Row 5: plan_builds on 50,000 nodes, beside one pass over the same graph that only reads the parents."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.harness import Options, Outcome, Row, interleave, median, ratio, run_contender, seconds

_NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
_REPEAT = 7


def graph(nodes: int, marked: int = 0) -> dict[str, Any]:
    """A manifest, as a dict: a source for every 50 nodes, and one to four parents each, mostly near ones.

    With ``marked``, every so many-th node is one whose content is compared.
    """
    import random

    choose = random.Random(nodes)
    ids = [f"source.warehouse.raw.table_{number:05d}" for number in range(nodes // 50)]
    sources = {
        each: {"name": each.rpartition(".")[2], "source_name": "raw", "package_name": "warehouse"} for each in ids
    }
    count = len(ids)
    children: dict[str, list[str]] = {each: [] for each in ids}
    entries = {}
    for number in range(nodes):
        unique_id = f"model.warehouse.model_{number:05d}"
        if number < count:
            parents = [ids[number]]
        else:
            near = (choose.randint(max(count, len(ids) - 400), len(ids) - 1) for _ in range(choose.randint(1, 4)))
            parents = list(dict.fromkeys(ids[each] for each in near))
        ids.append(unique_id)
        children[unique_id] = []
        for parent in parents:
            children[parent].append(unique_id)
        entries[unique_id] = {
            "name": unique_id.rpartition(".")[2], "resource_type": "model", "package_name": "warehouse",
            "fqn": ["warehouse", f"folder_{number // 100}", unique_id.rpartition(".")[2]],
            "checksum": {"name": "sha256", "checksum": f"{number:064x}"},
            "config": {"enabled": True, "materialized": "table"}, "depends_on": {"nodes": parents},
        }  # fmt: skip
        if marked and number % marked == 0:
            entries[unique_id]["config"]["meta"] = {"lineage_orch": {"cutoff": True}}
    return {
        "metadata": {"project_name": "warehouse"},
        "nodes": entries,
        "sources": sources,
        "child_map": children,
    }


def planned(nodes: int, updated: int, cutoff: str = "off") -> Callable[[], dict[str, Any]]:
    from lineage_orch.ledger import LedgerSnapshot, NodeFact
    from lineage_orch.lineage import Lineage
    from lineage_orch.plan import plan_builds

    lineage = Lineage.from_manifest(graph(nodes, marked=0 if cutoff == "off" else 2))
    # All was built at tick 1000, and then some sources were loaded.
    every = list(lineage.sources)
    loaded = every[:: max(1, len(every) // updated)][:updated]
    ticks = dict.fromkeys(every, 1) | {each: 1001 + number for number, each in enumerate(loaded)}
    facts = {each.unique_id: NodeFact(1000, _NOW, each.checksum) for each in lineage.nodes.values()}
    if cutoff != "off":
        facts = {each: NodeFact(1000, _NOW, None, None, lineage.identity(each), "as it was", 9.0) for each in facts}
    snapshot = LedgerSnapshot(tick=1001 + len(loaded), sources=ticks, nodes=facts, producers=frozenset(every))

    def work() -> dict[str, Any]:
        first = time.perf_counter()
        plan = plan_builds(lineage, snapshot, now=_NOW, cutoff=cutoff)
        cold = time.perf_counter() - first
        again = _fastest(lambda: plan_builds(lineage, snapshot, now=_NOW, cutoff=cutoff))
        # Found for all nodes at once, when first asked.
        because = _fastest(lambda: plan_builds(lineage, snapshot, now=_NOW, cutoff=cutoff).because[plan.build[-1]])
        due = len(plan.build) + len(plan.perhaps)
        return {"seconds": again, "because": because, "cold": cold, "build": due, "perhaps": len(plan.perhaps)}

    return work


def one_pass(nodes: int) -> Callable[[], dict[str, Any]]:
    data = graph(nodes)
    # Parents before children already, as the names of their numbers.
    parents = {unique_id: tuple(entry["depends_on"]["nodes"]) for unique_id, entry in data["nodes"].items()}
    ticks = dict.fromkeys([*data["sources"], *parents], 1)

    def walk() -> int:
        newest = 0
        for unique_id in parents:
            for parent in parents[unique_id]:
                if ticks[parent] > newest:
                    newest = ticks[parent]
        return newest

    return lambda: {"seconds": _fastest(walk)}


def one_pass_of_numbers(nodes: int) -> Callable[[], dict[str, Any]]:
    from lineage_orch.lineage import Lineage

    found = Lineage.from_manifest(graph(nodes)).built_graph
    parents, ticks = found.parents, [1] * len(found.ids)

    def walk() -> int:
        newest = 0
        for of_node in parents:
            for parent in of_node:
                if ticks[parent] > newest:
                    newest = ticks[parent]
        return newest

    return lambda: {"seconds": _fastest(walk)}


def _fastest(work: Callable[[], Any]) -> float:
    """The least of some turns: what is beside on the machine only adds."""
    gc.collect()
    best = float("inf")
    for _ in range(_REPEAT):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def measure(options: Options) -> list[Outcome]:
    nodes = 1_000 if options.quick else 50_000
    out = []
    for updated, cutoff in (
        (1, "off"),
        (min(500, nodes // 50), "off"),
        (min(500, nodes // 50), "marked"),
        (min(500, nodes // 50), "auto"),
    ):
        mine, named, numbered = interleave(
            options.rounds,
            lambda updated=updated, cutoff=cutoff: run_contender(planned, nodes, updated, cutoff),  # type: ignore[misc]
            lambda: run_contender(one_pass, nodes),
            lambda: run_contender(one_pass_of_numbers, nodes),
        )
        share, strict = ratio(mine, named), ratio(mine, numbered)
        due = mine[0].said["build"]
        because, cold = (median(mine, lambda run, name=name: run.said[name]) for name in ("because", "cold"))
        out.append(
            Outcome(
                f"{nodes:,} nodes, {updated:,} source{'s' * (updated > 1)} updated"
                f"{f', half of them marked, `cutoff` {cutoff}' if cutoff != 'off' else ''}: at most 3x",
                f"{share:.2f}x: {seconds(median(mine))} against {seconds(median(named))} "
                f"(over numbers instead of names: {seconds(median(numbered))}, {strict:.2f}x); {due:,} nodes due, "
                f"{mine[0].said['perhaps']:,} of them perhaps; "
                f"with the sources that reach each, which are found when first asked for: {seconds(because)}; "
                f"the first plan of a process, which reads the policies too: {seconds(cold)}",
                share <= 3,
            )
        )
    return out


ROWS = [Row("plan", "plan_builds", "one topological pass that only reads parents", measure)]
