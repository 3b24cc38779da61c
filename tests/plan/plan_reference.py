"""A second reading of the rule of the plan, straight from the sentences of the design, as dumb as can be.

Used by ``test_plan_properties.py`` alone. It knows nothing of :mod:`lineage_orch.plan.planner`: names instead of
numbers, memoised recursion instead of one pass, a loop over the history instead of a search, and, for what is in the
plan because of each other, the whole rule again and again until nothing is added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from math import inf
from typing import Any

from lineage_orch.ledger import LedgerSnapshot

PERIODS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
UNREADABLE = "soon"


@dataclass(frozen=True)
class Verdict:
    """``current``, ``build``, ``tests``, ``passed``, ``not_built``, or why a node is held."""

    kind: str
    waiting_for: frozenset[str] = frozenset()
    until: datetime | None = None


class Reference:
    """What the design says of each node of a manifest, given what the ledger saw and the time."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        snapshot: LedgerSnapshot,
        now: datetime,
        *,
        identities: Mapping[str, str],
        failure_identities: Mapping[str, str],
        views: str = "build",
        rebuild_changed_code: bool = True,
        missing_relations: Collection[str] = (),
        not_built: Collection[str] = (),
        failed: Collection[str] = (),
    ) -> None:
        self.manifest, self.snapshot, self.now = manifest, snapshot, now
        self.identities, self.failure_identities = identities, failure_identities
        self.pass_through, self.rebuild_changed_code = views == "pass_through", rebuild_changed_code
        self.missing, self.not_built, self.failed = set(missing_relations), set(not_built), set(failed)
        self.paused = {name for name, each in snapshot.pauses.items() if each.until is None or each.until > now}
        self.plan: set[str] = set()
        self.settle()

    def settle(self) -> None:
        """What is in the plan makes more stale, and needs more: again until nothing is added."""
        before: set[str] | None = None
        while before != self.plan:
            before = set(self.plan)
            for name in ("parents", "moves", "sources_above", "pending_since", "because", "is_reshaped", "blocked"):
                setattr(self, name, cache(getattr(type(self), name).__get__(self)))
            self.plan |= {each for each in self.nodes() if self.verdict(each).kind in ("build", "tests", "passed")}
            for each in list(self.plan):
                self.plan |= self.missing_parents(each)

    # The graph --------------------------------------------------------------------------------------------

    def nodes(self) -> list[str]:
        return [each for each in self.manifest["nodes"] if not self.is_ephemeral(each)]

    def is_ephemeral(self, name: str) -> bool:
        record = self.manifest["nodes"].get(name)
        return record is not None and record["config"]["materialized"] == "ephemeral"

    def is_source(self, name: str) -> bool:
        return name.startswith("source.")

    def parents(self, name: str) -> frozenset[str]:
        """Ephemeral models are seen through."""
        found: set[str] = set()
        record = self.manifest["nodes"].get(name, {"depends_on": {"nodes": []}})
        for each in record["depends_on"]["nodes"]:
            found |= self.parents(each) if self.is_ephemeral(each) else {each}
        return frozenset(found)

    def sources_above(self, name: str) -> frozenset[str]:
        if self.is_source(name):
            return frozenset({name})
        return frozenset().union(*(self.sources_above(each) for each in self.parents(name)))

    # What the ledger says ---------------------------------------------------------------------------------

    def built(self, name: str) -> int:
        return self.snapshot.nodes[name].tick if name in self.snapshot.nodes else 0

    def loaded(self, source: str) -> int:
        return self.snapshot.sources.get(source, 0)

    def changed(self, name: str) -> int:
        """What a paused source brought makes nothing stale."""
        if self.is_source(name):
            return 0 if name in self.paused else self.loaded(name)
        return self.snapshot.nodes[name].changed_tick if name in self.snapshot.nodes else 0

    def history(self, name: str) -> list[tuple[int, datetime]]:
        which = self.snapshot.source_history if self.is_source(name) else self.snapshot.node_history
        return list(which.get(name, ()))

    def has_producer(self, source: str) -> bool:
        return source in self.snapshot.producers or (
            source in self.manifest["sources"] and "raw.*" in self.snapshot.producer_patterns
        )

    def is_absent(self, name: str) -> bool:
        """Never built, or gone; what dbt will not build is made by others, and taken to be there."""
        if self.is_source(name) or name in self.not_built:
            return False
        return name not in self.snapshot.nodes or name in self.missing

    def missing_parents(self, name: str) -> set[str]:
        return {each for each in self.parents(name) if self.is_absent(each)}

    def moves(self, name: str) -> bool:
        """A source moves if it had an update that was no baseline, or has a producer; a node, if one above does."""
        if self.is_source(name):
            return self.has_producer(name) or (self.loaded(name) > 0 and name not in self.snapshot.baselines)
        return name not in self.not_built and any(self.moves(each) for each in self.parents(name))

    # Stale ------------------------------------------------------------------------------------------------

    def differs(self, name: str) -> bool:
        fact = self.snapshot.nodes.get(name)
        if fact is None or not self.rebuild_changed_code:
            return False
        if fact.identity is not None:
            return fact.identity != self.identities[name]
        return fact.checksum is not None and fact.checksum != self.manifest["nodes"][name]["checksum"]["checksum"]

    def is_missing(self, name: str) -> bool:
        return name in self.snapshot.nodes and name in self.missing

    def is_asked_for(self, name: str) -> bool:
        return self.snapshot.debts.get(name, 0) > self.built(name)

    def is_free(self, name: str) -> bool:
        """Whether it is stale for a reason that no policy holds."""
        return self.differs(name) or self.is_missing(name) or self.is_asked_for(name)

    def fresh(self, name: str) -> set[str]:
        """Parents new since the node was built, or that will be when this plan is done."""
        return {each for each in self.parents(name) if self.will_be(each) > self.built(name)}

    def will_be(self, name: str) -> float:
        """When it changed last, once this plan is done: what was only tested, as it was built."""
        if name in self.plan:
            return self.snapshot.untested[name].tick if self.is_only_tested(name) else inf
        return self.changed(name)

    def is_stale(self, name: str) -> bool:
        return self.is_free(name) or bool(self.fresh(name)) or name in self.plan

    def is_only_tested(self, name: str) -> bool:
        """Whether a build that succeeded itself is as good as one of now, and only its tests did not pass."""
        last = self.snapshot.untested.get(name)
        if last is None or last.tick <= self.built(name) or last.identity != self.identities[name]:
            return False
        if name in self.missing or self.snapshot.debts.get(name, 0) > last.tick:
            return False
        return all(self.will_be(each) <= last.tick for each in self.parents(name))

    # Held -------------------------------------------------------------------------------------------------

    def first_loads(self, name: str) -> set[str]:
        """The sources with a producer that were never loaded, above a node up to what exists."""
        found = {
            each
            for each in self.parents(name)
            if self.is_source(each) and self.has_producer(each) and self.loaded(each) == 0
        }
        for parent in self.missing_parents(name):
            found |= self.first_loads(parent)
        return found

    def is_unreadable(self, name: str) -> bool:
        state = self.manifest["nodes"][name]["config"].get("state") or {}
        return state.get("lag_tolerance") == UNREADABLE

    def unreadable_above(self, name: str) -> set[str]:
        found: set[str] = set()
        for parent in self.missing_parents(name):
            found |= self.unreadable_above(parent) | ({parent} if self.is_unreadable(parent) else set())
        return found

    def retry_at(self, name: str) -> datetime | None:
        """After k failures in a row: min(2^k x 5 min, 6 h) since the last; None: at once."""
        failure = self.snapshot.failures.get(name)
        if failure is None or self.snapshot.debts.get(name, 0) > failure.tick:
            return None
        if failure.identity is not None and failure.identity != self.failure_identities[name]:
            return None
        wait = timedelta(hours=6)
        for count in range(failure.count + 1):
            if 2**count * timedelta(minutes=5) > wait:
                break
        else:
            wait = 2**failure.count * timedelta(minutes=5)
        until = min(failure.last_at, self.now) + wait
        return until if until > self.now else None

    def blocked(self, name: str) -> str | None:
        """Whether it failed, in this call or before, or is below a node that did."""
        if self.is_source(name) or name in self.not_built:
            return None
        above = {self.blocked(each) for each in self.parents(name)}
        if name in self.failed or "failed" in above:
            return "failed"
        return "failing" if self.retry_at(name) or "failing" in above else None

    def is_paused(self, name: str) -> bool:
        return (
            not self.is_source(name)
            and name not in self.not_built
            and (name in self.paused or "*" in self.paused or any(map(self.is_paused, self.parents(name))))
        )

    def pausing(self, name: str) -> frozenset[str]:
        """The next nodes above that someone paused."""
        found: set[str] = set()
        for each in filter(self.is_paused, self.parents(name)):
            found |= {each} if each in self.paused else self.pausing(each)
        return frozenset(found)

    def verdict(self, name: str) -> Verdict:
        if name in self.plan:
            return Verdict("tests" if self.is_only_tested(name) else "passed" if self.passes(name) else "build")
        blocked = self.blocked(name)
        if blocked is not None:
            above = frozenset(each for each in self.parents(name) if self.blocked(each) == blocked)
            if above or blocked == "failed":
                return Verdict(blocked, above)
        elif not self.is_stale(name):
            return Verdict("current")
        elif name in self.not_built:
            return Verdict("not_built")
        if self.is_paused(name):
            if name in self.paused or "*" in self.paused:
                return Verdict("paused", frozenset(), self.snapshot.pauses[name if name in self.paused else "*"].until)
            above = self.pausing(name)
            ends = [self.snapshot.pauses[each].until for each in above]
            return Verdict("paused", above, None if None in ends else max(ends))
        if sources := self.first_loads(name):
            return Verdict("first_load", frozenset(sources))
        if self.is_unreadable(name):
            return Verdict("bad_config")
        if nodes := self.unreadable_above(name):
            return Verdict("bad_config", frozenset(nodes))
        return self.by_time(name)

    def by_time(self, name: str) -> Verdict:
        config = self.manifest["nodes"][name]["config"]
        after = (config.get("freshness") or {}).get("build_after") or {}
        state = config.get("state") or {}
        limits: list[tuple[datetime, str]] = []
        is_view_that_exists = self.pass_through and config["materialized"] == "view" and name in self.snapshot.nodes
        if not self.is_free(name) and not is_view_that_exists:
            if (state.get("require_fresh_data_from") or after.get("updates_on") or "any") == "all":
                fresh = self.fresh(name) | self.missing_parents(name)
                old = {each for each in self.parents(name) - fresh if self.moves(each) and self.is_old(each, name)}
                if old:
                    return Verdict("updates_on_all", frozenset(old))
            if after.get("count") is not None and name in self.snapshot.nodes:
                built_at = min(self.snapshot.nodes[name].built_at, self.now)
                limits.append((built_at + after["count"] * PERIODS[after["period"]], "build_after"))
            since = self.pending_since(name)
            if state.get("lag_tolerance") and since is not None:
                text = state["lag_tolerance"]
                limits.append((since + int(text[:-1]) * UNITS[text[-1]], "lag_tolerance"))
        if (retry_at := self.retry_at(name)) is not None:
            limits.append((retry_at, "failing"))
        latest = max((until for until, _ in limits), default=None)
        if latest is None or latest <= self.now:
            return Verdict("build")
        return Verdict(next(kind for until, kind in limits if until == latest), frozenset(), latest)

    def is_old(self, parent: str, name: str) -> bool:
        """Whether a parent has taken in nothing since, not even a load after which all came out as it was."""
        return self.settled(parent) <= self.built(name)

    def settled(self, name: str) -> int:
        if self.is_source(name):
            return self.changed(name)
        built = self.built(name)
        if not built or self.is_free(name) or any(self.changed(each) > built for each in self.parents(name)):
            return built
        return max([built, *map(self.settled, self.parents(name))])

    def pending_since(self, name: str) -> datetime | None:
        """The earliest, over the fresh parents, of the times that the design lists; what is to come counts as now."""
        times: list[datetime] = []
        for parent in self.fresh(name) | self.missing_parents(name):
            above = [(tick, at) for tick, at in self.history(parent) if tick > self.built(name)]
            if above:
                times.append(min(above)[1])
            if parent in self.plan or self.is_absent(parent):
                times.append(self.pending_since(parent) or self.now)  # built for another reason: new as of now
            if parent in self.plan & self.fresh(name) and self.is_only_tested(parent):
                times.append(self.snapshot.untested[parent].built_at)
        return min([*times, self.now]) if times else None

    # What is said of the plan -----------------------------------------------------------------------------

    def is_reshaped(self, name: str) -> bool:
        """Whether more than new data may have come to a node since it was built: other columns, say."""
        if self.is_source(name):
            return False
        if self.is_free(name) or name not in self.snapshot.nodes or self.is_only_tested(name):
            return True
        return any(
            (each in self.plan & self.fresh(name) and self.is_reshaped(each))
            or (not self.is_source(each) and self.changed(each) > self.built(name))
            for each in self.parents(name)
        )

    def passes(self, name: str) -> bool:
        is_view = self.manifest["nodes"][name]["config"]["materialized"] == "view"
        return self.pass_through and is_view and not self.is_reshaped(name)

    def because(self, name: str) -> frozenset[str]:
        """The sources whose updates reach it: through fresh parents alone."""
        found: set[str] = set()
        for parent in self.fresh(name):
            if self.is_source(parent):
                found.add(parent)
                continue
            if parent in self.plan:
                found |= self.because(parent)
            if self.changed(parent) > self.built(name):
                # It changed since: whatever source above it was loaded after N was built came with it.
                found |= {each for each in self.sources_above(parent) if self.changed(each) > self.built(name)}
        return frozenset(found)

    def reasons(self, name: str) -> set[tuple[str, frozenset[str]]]:
        """Each way in which a node is stale, but for whose sake it is a prerequisite."""
        fresh = self.fresh(name)
        nothing: frozenset[str] = frozenset()
        ways = {
            ("update", frozenset(filter(self.is_source, fresh))),
            ("parent", frozenset(each for each in fresh if not self.is_source(each))),
        }
        found = {(kind, subjects) for kind, subjects in ways if subjects}
        found |= {("identity", nothing)} if self.differs(name) else set()
        found |= {("missing_relation", nothing)} if self.is_missing(name) else set()
        found |= {("asked", nothing)} if self.is_asked_for(name) else set()
        found |= {("never_built", nothing)} if name not in self.snapshot.nodes else set()
        return found
