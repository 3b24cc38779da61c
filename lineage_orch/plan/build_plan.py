"""What comes out of planning: what to build now, what is held and until when, and what to hand to dbt for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal

from lineage_orch.ledger import Extent, Failure, Pause
from lineage_orch.ledger.snapshot import OPEN
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.followers import Follower
from lineage_orch.plan import selection
from lineage_orch.plan.reasons import Reason, all_sources
from lineage_orch.updates import Window

HeldReason = Literal[
    "updates_on_all",
    "build_after",
    "lag_tolerance",
    "load_running",
    "first_load",
    "failing",
    "bad_config",
    "failed",
    "running",
    "paused",
]


@dataclass(frozen=True, slots=True)
class Held:
    """Why a stale node does not build now.

    Attributes:
        reason: ``updates_on_all``: it waits for new data of the parents in ``waiting_for``;
            ``build_after``, ``lag_tolerance``: its policy holds it until ``until``;
            ``load_running``: the sources in ``waiting_for``, somewhere above it, are being loaded, or are about to be;
            it waits for that, at most until ``until``;
            ``first_load``: the sources in ``waiting_for`` have a producer and were never loaded;
            ``failing``: it failed in its last builds and is tried again at ``until``, or it reads the nodes in
            ``waiting_for``, which are held for that;
            ``bad_config``: its policy, or that of the nodes in ``waiting_for``, cannot be read;
            ``failed``: it, or the nodes in ``waiting_for``, failed in this call and nothing new came since;
            ``running``: of a follower: a run of it goes on, and is looked at ``until``; one more follows if there is
            something new by then;
            ``paused``: someone paused it, or the nodes in ``waiting_for`` above it, until ``until`` or until it is
            resumed.
        waiting_for: unique_ids.
        until: when it may build (UTC); None where no time alone will do.
        detail: what is wrong, for people; of ``bad_config``, of a node that is ``failing`` itself, and, where it was
            said, of one that is ``paused`` itself.
    """

    reason: HeldReason
    waiting_for: tuple[str, ...] = ()
    until: datetime | None = None
    detail: str | None = None


@dataclass(frozen=True)
class BuildPlan:
    """What to build now, what is held, and why.

    Attributes:
        build: what to build now: unique_ids, parents before children.
        perhaps: what to plan again when ``build`` is done: stale only through nodes of it that may come out as they
            were, or below such a node, or ``later``; parents before children.
        later: those of them that are built in any case, by a call of dbt of their own: microbatch models of which other
            batches are due, and what reads them.
        held: the stale nodes that do not build now, and those below what fails.
        tests_only: the nodes of which only the tests run: an earlier run built them from what they still read, and
            their tests did not pass. When they do, what is below them builds in the same run.
        failures: the nodes of the project that failed since their last good build, held now or not.
        because: for each node of ``build``, ``tests_only`` and ``passed_through``, the sources whose updates reach it;
            none for one that builds for other reasons alone.
        reasons: for each node that builds, perhaps builds, is only tested, is passed through or held, each way in which
            it is stale.
        next_due: the earliest time (UTC) until which a node is held, or None.
        passed_through: the views through which new data flows without a build (``views="pass_through"``).
        not_built: the stale nodes that dbt will not build, as it is called here.
        compared: the nodes of ``build`` whose content is to be compared with that of their build before -> the columns
            that do not count.
        maybe_same: those of them that may come out as they were: their content was known, nothing else changed.
        notes: what people should know of configs that could not be read and hold nothing.
        pauses: the sources and nodes that are paused now; ``*``: all nodes.
        extents: in which event times there is something new for each node that a microbatch model reads, or a follower
            that takes a window, and for these themselves; empty where no load gave a window.
        window: what dbt is to be given as the span of time of this call; None: what it needs without windows.
        batches: of the microbatch models that are built, now or later, in which of their event times something is new;
            of those alone for which a window is known.
        select: what to hand to dbt.
        follow: the followers that run now, each as soon as what it follows and is in the plan is recorded. They are
            none of ``build``: dbt does not build them.
        follow_held: the stale followers that do not run now.
        followers: all that were planned, by unique_id; ``because`` and ``reasons`` tell of them too.
    """

    build: tuple[str, ...]
    perhaps: tuple[str, ...]
    held: Mapping[str, Held]
    because: Mapping[str, frozenset[str]]
    reasons: Mapping[str, tuple[Reason, ...]]
    next_due: datetime | None
    passed_through: tuple[str, ...]
    not_built: tuple[str, ...]
    tests_only: tuple[str, ...]
    failures: Mapping[str, Failure]
    compared: Mapping[str, tuple[str, ...]]
    maybe_same: frozenset[str]
    notes: tuple[str, ...]
    follow: tuple[str, ...] = ()
    follow_held: Mapping[str, Held] = field(default_factory=dict)
    followers: Mapping[str, Follower] = field(default_factory=dict)
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    later: frozenset[str] = frozenset()
    extents: Mapping[str, Extent] = field(default_factory=dict)
    window: Window | None = None
    batches: Mapping[str, Extent] = field(default_factory=dict)
    _lineage: Lineage = field(repr=False, compare=False, kw_only=True)
    _absent: Collection[str] = field(default=(), repr=False, compare=False)
    _left: Collection[str] = field(default=(), repr=False, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do now (there may still be held nodes)."""
        return self.needs_no_dbt and not self.follow

    @property
    def needs_no_dbt(self) -> bool:
        """Whether there is nothing for dbt to do now (followers may run)."""
        return not self.build and not self.passed_through and not self.tests_only

    @cached_property
    def changed_code(self) -> frozenset[str]:
        """The nodes of the plan whose own definition changed since their last good build."""
        planned = (*self.build, *self.tests_only, *self.passed_through)
        return frozenset(node for node in planned if any(each.kind == "identity" for each in self.reasons[node]))

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The sources whose updates reach something in the plan, sorted."""
        return all_sources(self.because)

    @cached_property
    def select(self) -> tuple[str, ...]:
        """The selectors that make ``dbt build`` build exactly ``build``, and test what it tests.

        Raises:
            LineageError: dbt's selectors cannot tell one of the nodes from another.
        """
        return selection.select(self._lineage, self.build, self._only_tested, self._tested_sources)

    @property
    def _only_tested(self) -> tuple[str, ...]:
        return (*self.tests_only, *self.passed_through)

    @property
    def _tested_sources(self) -> tuple[str, ...]:
        """The sources whose tests run too; they have passed where all that is stale below them was built since."""
        return self.sources if self.build or self.passed_through else ()

    @cached_property
    def left_out_tests(self) -> tuple[str, ...]:
        """The tests that ``select`` would bring and that cannot pass yet: they also read what is not there.

        For a data test, that is a source with a producer that was never loaded, a node that was never built, or one
        that is stale and not built now, so still made of old data. For a unit test, an input whose columns dbt
        cannot look up: the relation of the tested model itself (``this``) before its first build, say. They run as
        soon as what they read is there.
        """
        build = frozenset((*self.build, *self.tests_only))
        stale = self.held.keys() | frozenset((*self.not_built, *self.perhaps, *self._left))

        def is_old(unique_id: str) -> bool:
            return unique_id in stale or (unique_id in self._absent and unique_id not in build)

        selected = selection.bearers(self._lineage, self.build, self._only_tested, self._tested_sources)
        return (
            *selection.left_out_data_tests(self._lineage, selected, is_old),
            *selection.left_out_unit_tests(self._lineage, self.build, self._absent),
        )

    @cached_property
    def exclude(self) -> tuple[str, ...]:
        """The selectors of ``left_out_tests``."""
        return tuple(map(self._lineage.selectors.test, self.left_out_tests))

    def window_of(self, follower: str) -> Window | None:
        """Return the event times in which all that is new for a follower that takes a window lies; None: not known."""
        extent = self.extents.get(follower, OPEN)
        return None if extent.is_open else extent.window

    def tests_on(self, node: str) -> frozenset[str]:
        """Return the tests on a node of the plan that ``dbt build`` runs with ``select`` and ``exclude``."""
        tests = self._lineage.tests_on(node)
        if node in self._without_build:
            # dbt runs a unit test only together with its model.
            tests = tuple(test for test in tests if test.startswith("test."))
        return frozenset(tests) - self._left_out

    @cached_property
    def _without_build(self) -> frozenset[str]:
        return frozenset(self._only_tested)

    @cached_property
    def _left_out(self) -> frozenset[str]:
        return frozenset(self.left_out_tests)
