"""What every build and every question joins: a dbt project as of now, the ledger, and what runs dbt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lineage_orch.builds.elsewhere import built_elsewhere, publish, tables_of, take_in, with_builds_elsewhere
from lineage_orch.dbt.command import is_full_refresh, not_built_by, threads_in
from lineage_orch.dbt.current import CurrentLineage
from lineage_orch.dbt.engine import DbtEngine
from lineage_orch.dbt.microbatch import user_decides
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import LineageError
from lineage_orch.ledger import Ledger, LedgerSnapshot
from lineage_orch.ledger.others import Published
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.followers import Follower
from lineage_orch.loads.following import declared_followers, following_of
from lineage_orch.plan import BuildPlan, Estimate, estimate, history_of, plan_builds
from lineage_orch.plan.followers import followers_of
from lineage_orch.plan.windows import extents_asked
from lineage_orch.settings import LineageOrchSettings

if TYPE_CHECKING:
    from prefect.flows import Flow

    from lineage_orch.loads.discovery import DiscoveryResult

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class Workspace:
    """A dbt project, its lineage as of now, its ledger, and the plan that follows of them.

    Args:
        clock: returns the time now (aware); only the policies look at it.

    Attributes:
        loading: returns the names of the sources that are being loaded now, or are about to be.
        being_loaded: their unique_ids, as of the last time that this was asked.
    """

    settings: LineageOrchSettings
    project: DbtProject
    dbt: DbtEngine
    ledger: Ledger
    current: CurrentLineage
    clock: Callable[[], datetime]
    loading: Callable[[], Iterable[str]] = tuple
    being_loaded: frozenset[str] = frozenset()
    _published: Mapping[str, Published] | None = None

    @property
    def lineage(self) -> Lineage:
        """The project's lineage as of now; see :meth:`CurrentLineage.now`."""
        return self.current.now()

    # The ledger, in the names of this manifest -----------------------------------------------------------

    def facts(self, lineage: Lineage) -> LedgerSnapshot:
        """Return what the ledger knows, without the history that a plan asks for."""
        return self.seen_with(lineage, self.ledger.snapshot(history_of=()))

    def snapshot(self, lineage: Lineage) -> LedgerSnapshot:
        """Return what the ledger knows, with all that a plan asks for."""
        followers = self.followers(lineage)
        history = history_of(lineage, self.being_loaded, followers)
        found = self.ledger.snapshot(history_of=history, extents_of=extents_asked(lineage, followers))
        return self.seen_with(lineage, found)

    def seen_with(self, lineage: Lineage, snapshot: LedgerSnapshot) -> LedgerSnapshot:
        """Return a snapshot in which names that were kept as given stand for the sources of this manifest.

        And in which a source has a producer before its first load, and what other projects built is known: what a plan
        shows is what a build will do.
        """
        snapshot = with_builds_elsewhere(snapshot, built_elsewhere(self.ledger, lineage))
        sources = dict(snapshot.sources)
        for name, ids in resolved(lineage, snapshot.unresolved).items():
            for source in ids:
                sources[source] = max(sources.get(source, 0), snapshot.unresolved[name])
        return replace(
            snapshot, sources=sources, producer_patterns=snapshot.producer_patterns | self.found_producers[0]
        )

    def take_in(self, lineage: Lineage) -> None:
        """Show other projects what is here, and record what they built, before a run takes its tick.

        Raises:
            LineageError: the projects go round in a circle.
            LedgerError: the ledger cannot be read or written.
        """
        if (tables := tables_of(lineage)) != self._published:
            publish(self.ledger, lineage, tables)
            self._published = tables
        take_in(self.ledger, lineage, self.clock())

    @cached_property
    def _found(self) -> DiscoveryResult | None:
        """What is found where the setting ``producers`` says; None: it names no place."""
        if not self.settings.producers:
            return None
        from lineage_orch.loads.discovery import find_producers

        return find_producers(self.settings.producers)

    @property
    def found_producers(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """The sources of the producers that the setting ``producers`` names, and what to tell people of the rest."""
        found = self._found
        if found is None:
            return frozenset(), ()
        said = [f"Producers in {failure.place} are not known: {failure.why}" for failure in found.failures]
        return frozenset(source for each in found.producers for source in each.sources), tuple(said)

    # What follows the nodes ------------------------------------------------------------------------------

    def followers(self, lineage: Lineage) -> tuple[Follower, ...]:
        """Return the followers: exposures that name a deployment, and flows with ``@follows``.

        Of flows, those that were imported in this process, and those where the setting ``producers`` says.
        """
        declared = {each.name: each for each in (self._found.followers if self._found else ())}
        for name, flow in declared_followers().items():
            if (following := following_of(flow)) is not None:
                declared[name] = following
        return followers_of(lineage, declared.values())

    def flow_of(self, follower: Follower) -> Flow[Any, Any]:
        """Return the flow of a follower that runs in this process.

        Raises:
            ProducerError: it cannot be imported.
        """
        if (flow := declared_followers().get(follower.name)) is not None:
            return flow
        from lineage_orch.loads.discovery import load_follower

        found = (each for each in (self._found.followers if self._found else ()) if each.name == follower.name)
        return load_follower(next(found))

    def as_last_parsed(self) -> tuple[Lineage, LedgerSnapshot] | None:
        """Return the lineage as dbt parsed it last, and the ledger; None where its files say something else by now.

        Raises:
            ManifestError, LedgerError: the manifest or ledger cannot be read.
        """
        if self.settings.manifest is None and self.project.manifest_is_stale():
            return None
        lineage = self.current.as_read()
        return lineage, self.snapshot(lineage)

    # The plan --------------------------------------------------------------------------------------------

    def plan(
        self,
        lineage: Lineage,
        snapshot: LedgerSnapshot,
        failed: Iterable[str] = (),
        missing: Collection[str] = (),
        only: Collection[str] | None = None,
        forced: Collection[str] = (),
        compares: bool = True,
        batches_given: bool = False,
        running: Collection[str] = (),
    ) -> BuildPlan:
        """Return :func:`lineage_orch.plan.plan_builds` by the settings, as of now."""
        settings = self.settings
        return plan_builds(
            lineage,
            snapshot,
            now=self.clock(),
            views=settings.views,
            rebuild_changed_code=settings.rebuild_changed_code,
            missing_relations=missing,
            not_built=not_built_by(settings.dbt_command, settings.dbt_flags, lineage),
            failed=frozenset(failed),
            only=only,
            forced=forced,
            loading=self.being_loaded,
            patience=timedelta(seconds=settings.patience),
            # A full refresh builds all of the plan anew, whatever came out above it.
            cutoff=settings.cutoff if compares and not is_full_refresh(settings.dbt_flags) else "off",
            followers=self.followers(lineage),
            running=running,
            batches_given=batches_given or user_decides(settings.dbt_flags),
        )

    def ask_loading(self, lineage: Lineage) -> None:
        """Learn which sources are being loaded now, where that is known and waited for."""
        if self.settings.patience:
            found = resolved(lineage, self.loading())
            self.being_loaded = frozenset(each for ids in found.values() for each in ids)

    def missing_relations(self, lineage: Lineage, snapshot: LedgerSnapshot) -> frozenset[str]:
        """Return the nodes that are not in the warehouse; none where that is of no use, or cannot be told."""
        # Of what was never built it matters to a microbatch model alone: whether dbt will start at its `begin`.
        if (
            not snapshot.nodes
            and not snapshot.untested
            and all(lineage.microbatch(node) is None for node in lineage.nodes)
        ):
            return frozenset()
        return self.dbt.missing_relations(lineage) or frozenset()

    def estimate(self, lineage: Lineage, plan: BuildPlan) -> Estimate | None:
        """Return how long dbt will take for a plan, by how long its nodes took before; None where none was timed."""
        return estimate(lineage, plan.build, self.ledger.median_seconds(plan.build), self.threads)

    @property
    def threads(self) -> int:
        """How many nodes dbt builds at a time."""
        return threads_in(self.settings.dbt_flags) or self.project.profile.threads or 1

    def tests_to_run(self, plan: BuildPlan, nodes: Iterable[str]) -> Mapping[str, frozenset[str]]:
        """Return the tests that dbt runs on each of these nodes, as it is called here."""
        if self.settings.dbt_command != "build":
            return dict.fromkeys(nodes, frozenset())
        return {node: plan.tests_on(node) for node in nodes}


def resolved(lineage: Lineage, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the sources of those of these names that the manifest knows; templates are none of them."""
    out: dict[str, tuple[str, ...]] = {}
    for name in names:
        try:
            out[name] = lineage.resolve_sources(name)
        except LineageError:
            continue  # whoever needs it asks again, and tells what is wrong with it
    return out
