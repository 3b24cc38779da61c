"""What a change of the project makes stale: the plan of the new manifest, where all was built by the old. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from lineage_orch.ledger import LedgerSnapshot, NodeFact
from lineage_orch.lineage.identity import changed_parts
from lineage_orch.plan import plan_builds, plan_graph
from lineage_orch.reports.as_json import as_json, picked
from lineage_orch.reports.explanation import PartChange
from lineage_orch.reports.status import short_names
from lineage_orch.reports.wording import part_change
from lineage_orch.text import count, few, listed, one_line, roughly

if TYPE_CHECKING:
    from lineage_orch.lineage import Lineage
    from lineage_orch.plan import Estimate

# Up to so many rows stand open in a comment, which holds 65,536 characters; more are folded away, and then counted.
_OPEN, _MOST = 25, 200


@dataclass(frozen=True, slots=True)
class StaleNode:
    """A node that the change makes stale.

    Attributes:
        node: its unique_id.
        is_new: whether the old manifest does not have it.
        changes: what of its own definition differs; empty where it only lies below what changed.
        below: the unique_ids of the new and changed nodes that it lies below.
        perhaps: whether it builds only if what is above it comes out changed.
        seconds: how long a build of it takes; None: not known.
    """

    node: str
    is_new: bool
    changes: tuple[PartChange, ...]
    below: tuple[str, ...]
    perhaps: bool
    seconds: float | None


@dataclass(frozen=True)
class Comparison:
    """What differs between two manifests, as far as it makes anything build.

    Attributes:
        stale: the nodes that the new one makes stale, parents before children.
        removed: the nodes that it does not have any more.
        readers: the exposures that read anything of ``stale``.
        nodes: how many nodes the new manifest has.
        names: what people call the sources and nodes of both.
    """

    stale: tuple[StaleNode, ...]
    removed: tuple[str, ...]
    readers: tuple[str, ...]
    nodes: int
    names: Mapping[str, str]

    def to_dict(self, expected: Estimate | None = None) -> dict[str, Any]:
        """Return it as JSON-ready values, with how long it is expected to take."""
        return {
            "stale": [{**as_json(each), "changes": [change.part for change in each.changes]} for each in self.stale],
            **picked(self, "removed", "readers", "nodes"),
            "estimate": as_json(expected),
        }


def compare(old: Lineage, new: Lineage, seconds: Mapping[str, float] | None = None) -> Comparison:
    """Return what is stale by the new manifest in a warehouse that was built by the old one, with nothing held back.

    Args:
        new: the project after it, of the same target and vars: a relation that moves is a change.
        seconds: unique_id -> how long a build of the node takes.

    Raises:
        ManifestError: a manifest cannot be read any more.
        LineageError: a manifest has a cycle.
    """
    # Long ago, so that no build_after holds anything; with some content, so that it may come out the same.
    built_at = datetime(2000, 1, 1, tzinfo=UTC)
    facts = {
        node: NodeFact(1, built_at, identity=old.identity(node), content="as it was")
        for node in old.nodes
        if node in new.nodes
    }
    plan = plan_builds(new, LedgerSnapshot(1, dict.fromkeys(new.sources, 1), facts), now=datetime.now(UTC))
    graph = plan_graph(new)
    added = new.nodes.keys() - old.nodes.keys()
    stale = {*plan.build, *plan.perhaps, *plan.passed_through, *plan.tests_only, *plan.held, *plan.not_built, *added}
    above: dict[int, frozenset[int]] = {}
    rows: list[StaleNode] = []
    for number in range(graph.source_count, len(graph.ids)):
        node = graph.ids[number]
        parents = [each for each in graph.parents[number] if each in above]
        own = () if node not in facts else _changes(old.identity_parts(node), new.identity_parts(node))
        is_new = node in added
        below = frozenset().union(*(above[each] for each in parents))
        if node not in stale:
            continue
        above[number] = below | {number} if own or is_new else below
        reasons = tuple(graph.ids[each] for each in sorted(below))
        rows.append(StaleNode(node, is_new, own, reasons, node in plan.perhaps, (seconds or {}).get(node)))
    return Comparison(
        tuple(rows),
        tuple(sorted(old.nodes.keys() - new.nodes.keys())),
        _exposures_of(new, stale),
        len(new.nodes),
        {**short_names(old), **short_names(new)},
    )


def comparison_markdown(found: Comparison, expected: Estimate | None = None, *, note: str = "") -> str:
    """Return a comparison as Markdown, for a comment on a pull request; names are shown as text, whatever they hold.

    Args:
        note: a line for the end, such as why no time is known.
    """
    names = found.names
    total = f"{len(found.stale)} of {count(found.nodes, 'node')}"
    if not found.stale:
        lines = ["### This change makes nothing stale", ""]
    else:
        time = f", about {roughly(expected.seconds)}" if expected else ""
        lines = [f"### This change makes {total} stale{time}", "", *_folded(_table(found)), ""]
    if found.readers:
        shown = few((_code(each.rpartition(".")[2]) for each in found.readers), most=20)
        lines += [f"Read by {count(found.readers, 'exposure')}: {shown}.", ""]
    if found.removed:
        shown = few((_code(names[each]) for each in found.removed), most=20)
        lines += [f"Gone from the project, and still in the warehouse: {shown}.", ""]
    if expected:
        untimed = expected.nodes - expected.timed
        guess = f"; {count(untimed, 'node was', 'nodes were')} never timed, and count as the median" if untimed else ""
        lines.append(
            f"Time: the medians of the last builds, tests included, on {count(expected.threads, 'thread')}{guess}."
        )
    if note:
        lines.append(_plain(note))
    return "\n".join(lines).rstrip() + "\n"


def _table(found: Comparison) -> list[str]:
    has_times = any(each.seconds is not None for each in found.stale)
    rows = ["| node | why |", "|---|---|"]
    if has_times:
        rows = ["| node | why | time |", "|---|---|---:|"]
    for each in found.stale[:_MOST]:
        row = f"| {_code(found.names[each.node])} | {_why(each, found.names)} |"
        took = "" if each.seconds is None else roughly(each.seconds)
        rows.append(f"{row} {took} |" if has_times else row)
    if len(found.stale) > _MOST:
        rows += ["", f"and {len(found.stale) - _MOST} more"]
    return rows


def _folded(table: Sequence[str]) -> list[str]:
    if len(table) <= _OPEN + 2:
        return list(table)
    return ["<details><summary>Which</summary>", "", *table, "", "</details>"]


def _why(stale: StaleNode, names: Mapping[str, str]) -> str:
    own = "new" if stale.is_new else listed((_plain(part_change(each)) for each in stale.changes), most=4)
    if own:
        return own
    below = few((_code(names[each]) for each in stale.below), most=4)
    return f"{'perhaps: ' if stale.perhaps else ''}downstream of {below}"


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[PartChange, ...]:
    return tuple(PartChange(part, old.get(part), new.get(part)) for part in changed_parts(old, new))


def _exposures_of(lineage: Lineage, nodes: Iterable[str]) -> tuple[str, ...]:
    graph, walk = lineage.graph, list(nodes)
    seen = set(walk)
    for each in walk:  # grows while it is walked
        below = [child for child in graph.successors(each) if child not in seen]
        seen.update(below)
        walk += below
    return tuple(sorted(each for each in seen if each.startswith("exposure.")))


def _code(name: str) -> str:
    """Return a name as code, in which Markdown and HTML mean nothing; a bar would end the cell of a table."""
    name = one_line(name).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", name)), default=0) + 1)
    return f"{fence} {name} {fence}" if "`" in name else f"{fence}{name}{fence}"


def _plain(text: str) -> str:
    return escape(one_line(text), quote=False).replace("|", "\\|")
