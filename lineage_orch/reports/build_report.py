"""What a build did: data, rendered elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lineage_orch.errors import BuildFailedError
from lineage_orch.reports.as_json import as_json
from lineage_orch.text import count, few, one_line, roughly

if TYPE_CHECKING:
    from lineage_orch.plan import BuildPlan, Estimate, Held


@dataclass
class BuildReport:
    """What one call of ``Orchestrator.build`` did.

    Attributes:
        built: the nodes that were built well, in the order in which they finished.
        tested: the nodes that an earlier call built, and whose tests passed only now; they were not built again.
        unchanged: those of ``built`` whose content came out as it was, so that nothing builds for it.
        unchanged_upstream: the nodes below these that are up to date without a build: what they read is as it was.
        waiting: the nodes of which the last plan could not say yet which of both they are.
        failed: each node or test that failed, with dbt's message.
        retried: each node that failed for a reason that passes and was tried again in this call, with the message of
            then; it is in ``built`` or ``failed`` too.
        blocked: the nodes that wait for one that failed; they are still stale.
        failing: each node that failed in earlier calls and was not tried again yet, with the message of then.
        held: what is held, as of the last plan.
        next_due: when the first of it may build (UTC).
        not_built: the stale nodes that dbt, as it is called here, does not build.
        partial: each microbatch model of which some batches failed, with these.
        unreported: what was planned, and of which dbt said nothing; it is still stale.
        unplanned: what dbt built although it was not planned; it is not recorded.
        runs: how often dbt was run.
        more: what became stale again while this call built, and is left to the next.
        seconds: how long dbt took, in the runs of which it was known how long they should take.
        expected: how many seconds these should have taken, by how long their nodes took before.
        busy: who held the lock, if this call left the work to another.
        answered: with ``busy``: whether the other had answered, before this call returned, the loads that it was to
            wait for. ``failing`` then names what failed there.
        followed: the followers that this call started.
        follow_failed: each of those that did not end Completed, as far as this call knows -> why. No build fails for
            them: they are tried again later.
        stale_below: of a build of a selection: what is stale now since it reads what was built, and was not selected.
        read_elsewhere: the other projects of the ledger that read what this one built, and have not taken it in yet, as
            ``project/target``.
    """

    built: list[str] = field(default_factory=list)
    tested: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    unchanged_upstream: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    retried: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)
    next_due: datetime | None = None
    not_built: list[str] = field(default_factory=list)
    partial: dict[str, list[str]] = field(default_factory=dict)
    unreported: list[str] = field(default_factory=list)
    unplanned: list[str] = field(default_factory=list)
    runs: int = 0
    more: list[str] = field(default_factory=list)
    seconds: float = 0.0
    expected: float = 0.0
    busy: str | None = None
    answered: bool = False
    followed: list[str] = field(default_factory=list)
    follow_failed: dict[str, str] = field(default_factory=dict)
    stale_below: list[str] = field(default_factory=list)
    read_elsewhere: list[str] = field(default_factory=list)

    def took(self, seconds: float, expected: Estimate) -> None:
        """Add how long a run of dbt took, and how long it should have taken."""
        self.seconds += seconds
        self.expected += expected.seconds

    @property
    def timing(self) -> str | None:
        """How long dbt took and was expected to take, in one line for people; None where nothing was expected."""
        if not self.expected:
            return None
        return f"dbt took {roughly(self.seconds)}; about {roughly(self.expected)} was expected, by the builds before."

    def take_plan(self, plan: BuildPlan) -> None:
        """Note what the next plan of the call makes of the nodes that waited for this one."""
        due = {*plan.build, *plan.perhaps, *plan.tests_only, *plan.passed_through, *plan.held, *plan.not_built}
        due |= {*plan.follow, *plan.follow_held}
        waited = dict.fromkeys((*self.unchanged_upstream, *self.waiting))
        self.unchanged_upstream = [node for node in waited if node not in due]
        self.waiting = list(plan.perhaps)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    @property
    def handed_over(self) -> bool:
        """Whether something stale is left to another: to who holds the lock, or to the next call."""
        return bool(self.more or (self.busy and not self.answered))

    def summary(self) -> str:
        """Return one line for people."""
        if self.answered and not self.runs:
            failed = f"; {len(self.failing)} failed there ({few(map(last_name, self.failing))})" if self.failing else ""
            return f"The build was done by {self.busy}{failed}."
        if self.busy and not self.runs:
            return f"The build is left to {self.busy}, who builds now and looks again when done."
        parts = []
        if self.built or not (self.failed or self.tested):
            parts.append(f"built {count(self.built, 'node')}" if self.built else "nothing was due")
        if self.tested:
            parts.append(f"{len(self.tested)} now passed {'its' if len(self.tested) == 1 else 'their'} tests")
        if self.unchanged_upstream:
            parts.append(f"{len(self.unchanged_upstream)} not built: unchanged upstream")
        if self.failed:
            parts.append(f"{len(self.failed)} failed ({few(map(last_name, self.failed))})")
        if self.retried:
            parts.append(f"{len(self.retried)} tried again ({few(map(last_name, self.retried))})")
        if self.failing:
            parts.append(f"{len(self.failing)} not tried again yet ({few(map(last_name, self.failing))})")
        if self.blocked:
            parts.append(f"{len(self.blocked)} wait for what failed")
        held = [node for node, each in self.held.items() if each.reason not in ("failed", "failing")]
        if held:
            until = f", the next until {self.next_due:%Y-%m-%d %H:%M:%S} UTC" if self.next_due else ""
            parts.append(f"{len(held)} held{until}")
        if self.not_built:
            parts.append(f"{len(self.not_built)} stale that dbt does not build here")
        if self.unreported:
            parts.append(f"{len(self.unreported)} without a result from dbt")
        if self.unplanned:
            parts.append(f"{len(self.unplanned)} built by dbt without being planned")
        if self.followed:
            failed = f", of which {len(self.follow_failed)} failed" if self.follow_failed else ""
            parts.append(f"{count(self.followed, 'follower')} started{failed}")
        if self.more:
            parts.append(f"{len(self.more)} stale again by what was loaded meanwhile, and left to the next build")
        text = ", ".join(parts)
        return text[0].upper() + text[1:] + "."

    def carried(self) -> str | None:
        """Return one line that names the nodes that failed in builds before and still wait; None if there are none."""
        if not self.failing:
            return None
        said = few(f"{node} ({one_line(why, most=200)})" for node, why in self.failing.items())
        nodes = count(self.failing, "node")
        return f"{nodes} failed in builds before, and {_are(self.failing)} not tried again yet: {said}"

    def raise_for_failures(self, *, carried: bool = False) -> None:
        """Raise BuildFailedError, which names each node and test that failed, if any did.

        Args:
            carried: also if nodes wait that failed in builds before (setting ``fail_on_carried``).
        """
        if self.failed:
            lines = [f"  {node}: {message}" for node, message in self.failed.items()]
            lines += [
                f"  {node}: of its batches, these failed: {few(batches)}" for node, batches in self.partial.items()
            ]
            waiting = f"; {count(self.blocked, 'node')} below {_are(self.blocked)} still stale" if self.blocked else ""
            error = BuildFailedError(
                f"{len(self.failed)} failed in dbt{waiting}. Fix what failed; a later build takes up what is stale.\n"
                + "\n".join(lines)
            )
            error.more = tuple(self.more)
            raise error
        if carried and (said := self.carried()) is not None:
            raise BuildFailedError(said)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        data: dict[str, Any] = as_json(self)
        data["expected_seconds"] = data.pop("expected")
        return data


def _are(things: Collection[str]) -> str:
    return "is" if len(things) == 1 else "are"


def last_name(unique_id: str) -> str:
    """Return the last part of a unique_id, or the name of a test without its hash."""
    return unique_id.split(".")[2] if unique_id.startswith("test.") else unique_id.rpartition(".")[2]
