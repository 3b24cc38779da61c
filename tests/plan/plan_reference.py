"""A second reading of the rule of the plan, straight from the sentences of the design, as dumb as can be.

Used by ``test_plan_properties.py`` alone. It knows nothing of :mod:`lineage_orch.plan.planner`: names instead of
numbers, memoised recursion instead of one pass, a loop over the history instead of a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from lineage_orch.ledger import LedgerSnapshot

PERIODS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


class Reference:
    """What the design says of each node of a manifest, given what the ledger saw and the time."""

    def __init__(
        self, manifest: Mapping[str, Any], snapshot: LedgerSnapshot, now: datetime, *, first_load: bool = False
    ) -> None:
        self.manifest, self.snapshot, self.now, self.first_load = manifest, snapshot, now, first_load
        for name in ("parents", "moves", "sources_above", "verdict", "pending_since", "because"):
            setattr(self, name, cache(getattr(self, name)))

    def nodes(self) -> list[str]:
        return [each for each in self.manifest["nodes"] if not self.is_glass(each)]

    def is_glass(self, name: str) -> bool:
        record = self.manifest["nodes"].get(name)
        return record is not None and record["config"]["materialized"] == "ephemeral"

    def parents(self, name: str) -> frozenset[str]:
        """Ephemeral models are glass: parents are seen through them."""
        found: set[str] = set()
        record = self.manifest["nodes"].get(name, {"depends_on": {"nodes": []}})
        for each in record["depends_on"]["nodes"]:
            found |= self.parents(each) if self.is_glass(each) else {each}
        return frozenset(found)

    def tick(self, name: str) -> int:
        """A node or source that the ledger never saw has tick 0."""
        if name.startswith("source."):
            return self.snapshot.sources.get(name, 0)
        return self.snapshot.nodes[name].tick if name in self.snapshot.nodes else 0

    def history(self, name: str) -> list[tuple[int, datetime]]:
        which = self.snapshot.source_history if name.startswith("source.") else self.snapshot.node_history
        return list(which.get(name, ()))

    def moves(self, name: str) -> bool:
        """A source moves if it was ever updated or has a producer; a node, if an ancestor source does."""
        if name.startswith("source."):
            return self.tick(name) > 0 or name in self.snapshot.producers
        return any(self.moves(each) for each in self.parents(name))

    def sources_above(self, name: str) -> frozenset[str]:
        if name.startswith("source."):
            return frozenset({name})
        return frozenset().union(*(self.sources_above(each) for each in self.parents(name)))

    def in_plan(self, name: str) -> bool:
        return not name.startswith("source.") and self.verdict(name)[0] == "build"

    def fresh(self, name: str) -> set[str]:
        """Parents in the plan, or with a tick above N's."""
        return {each for each in self.parents(name) if self.in_plan(each) or self.tick(each) > self.tick(name)}

    def code_changed(self, name: str) -> bool:
        """Its checksum changed since its last good build, if that is known."""
        fact = self.snapshot.nodes.get(name)
        current = self.manifest["nodes"][name]["checksum"]["checksum"]
        return fact is not None and fact.checksum is not None and fact.checksum != current

    def verdict(self, name: str) -> tuple[str, frozenset[str], datetime | None]:
        """``("current" | "build" | "first_load" | "all" | "until", waiting_for, until)`` of a node."""
        nothing: frozenset[str] = frozenset()
        fresh = self.fresh(name)
        if not fresh and not self.code_changed(name):
            return "current", nothing, None
        if self.first_load:
            missing = {
                each for each in self.sources_above(name) if each in self.snapshot.producers and self.tick(each) == 0
            }
            if missing:
                return "first_load", frozenset(missing), None
        config = self.manifest["nodes"][name]["config"]
        after = (config.get("freshness") or {}).get("build_after") or {}
        state = config.get("state") or {}
        if (state.get("require_fresh_data_from") or after.get("updates_on") or "any") == "all":
            stale = {each for each in self.parents(name) if self.moves(each) and each not in fresh}
            if stale and not self.code_changed(name):
                return "all", frozenset(stale), None
        limits: list[datetime] = []
        if after.get("count") is not None and name in self.snapshot.nodes:
            limits.append(self.snapshot.nodes[name].built_at + after["count"] * PERIODS[after["period"]])
        if state.get("lag_tolerance"):
            text = state["lag_tolerance"]
            since = self.pending_since(name)
            if since is not None:
                limits.append(since + int(text[:-1]) * UNITS[text[-1]])
        if limits and max(limits) > self.now and not self.code_changed(name):
            return "until", nothing, max(limits)
        return "build", nothing, None

    def pending_since(self, name: str) -> datetime | None:
        """The earliest, over the fresh parents, of the three times that the design lists."""
        times: list[datetime] = []
        for parent in self.fresh(name):
            above = [(tick, at) for tick, at in self.history(parent) if tick > self.tick(name)]
            if above:
                times.append(min(above)[1])
            if self.in_plan(parent):
                own = self.pending_since(parent)
                if own is None and self.code_changed(parent):
                    own = self.now  # built for its new code alone: new as of now
                if own is not None:
                    times.append(own)
        return min(times) if times else None

    def because(self, name: str) -> frozenset[str]:
        """The sources whose updates reach it: through fresh parents alone."""
        found: set[str] = set()
        for parent in self.fresh(name):
            if parent.startswith("source."):
                found.add(parent)
            elif self.in_plan(parent):
                found |= self.because(parent)
            if not parent.startswith("source.") and self.tick(parent) > self.tick(name):
                # It was built since: whatever source above it was loaded after N was built came with it.
                found |= {each for each in self.sources_above(parent) if self.tick(each) > self.tick(name)}
        return frozenset(found)
