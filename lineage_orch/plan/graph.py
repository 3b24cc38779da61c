"""The sources and nodes of a project alone, as numbers: what the planner walks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lineage_orch.lineage.policy import Policy, read_policy

if TYPE_CHECKING:
    from lineage_orch.lineage import Lineage


@dataclass(frozen=True)
class PlanGraph:
    """Sources and nodes as numbers: sources ``0 .. source_count - 1``, then nodes, parents before children.

    ``parents[i]`` are the numbers of what node ``i`` reads, glass seen through. ``policies`` and ``views``
    hold only the nodes that have a policy of their own, or are views.
    """

    ids: tuple[str, ...]
    index: Mapping[str, int]
    source_count: int
    parents: tuple[tuple[int, ...], ...]
    checksums: tuple[str | None, ...]
    policies: Mapping[int, Policy]
    views: frozenset[int]

    @cached_property
    def above_a_lag(self) -> frozenset[int]:
        """The nodes with a ``lag_tolerance``, and those above them: whose ``pending_since`` may be asked."""
        found = {number for number, policy in self.policies.items() if policy.lag_tolerance is not None}
        if found:
            for number in range(len(self.ids) - 1, self.source_count - 1, -1):
                if number in found:
                    found.update(self.parents[number])
        return frozenset(found)

    def above(self, sources: Sequence[int]) -> list[int]:
        """Return, for each number, which of these sources are above it, as bits in their order.

        Sets of sources are kept as bits here and in the planner: 500 sources are one integer.
        """
        above = [0] * len(self.ids)
        for bit, source in enumerate(sources):
            above[source] = 1 << bit
        for number in range(self.source_count, len(above)):
            for parent in self.parents[number]:
                above[number] |= above[parent]
        return above

    @classmethod
    def of(cls, lineage: Lineage) -> PlanGraph:
        """Number the sources and nodes of a lineage, and read their policies."""
        old_ids, old_parents = lineage._ids, lineage._parents
        source_count = lineage._source_count
        nodes = lineage.nodes
        ids = old_ids[:source_count]
        new: list[int] = [*range(source_count)] + [-1] * (len(old_ids) - source_count)
        parents: list[tuple[int, ...]] = [()] * source_count
        # What a glass resource lets one see: the numbers of the solid parents behind it.
        behind: dict[int, tuple[int, ...]] = {}
        for each in lineage._order:
            if each < source_count:
                continue
            of_each = old_parents[each]
            seen = [new[parent] for parent in of_each]
            if -1 in seen:
                mixed = (
                    (number,) if number >= 0 else behind[parent] for number, parent in zip(seen, of_each, strict=True)
                )
                seen = list(dict.fromkeys(number for group in mixed for number in group))
            if old_ids[each] in nodes:
                new[each] = len(ids)
                ids.append(old_ids[each])
                parents.append(tuple(seen))
            else:
                behind[each] = tuple(seen)
        records = lineage._manifest.nodes
        policies: dict[int, Policy] = {}
        views: list[int] = []
        checksums: list[str | None] = [None] * source_count
        for number in range(source_count, len(ids)):
            record = records[ids[number]]
            checksums.append(record.checksum.checksum if record.checksum else None)
            config = record.config
            if config is None:
                continue
            if config.materialized == "view":
                views.append(number)
            if config.freshness is not None or config.state is not None:
                policies[number] = read_policy(ids[number], config.freshness, config.state)
        return cls(
            tuple(ids),
            {unique_id: number for number, unique_id in enumerate(ids)},
            source_count,
            tuple(parents),
            tuple(checksums),
            policies,
            frozenset(views),
        )


def ones(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
