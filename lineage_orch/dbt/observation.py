"""Loads that no producer reports, told from when the newest row of a source was loaded.

All that is kept of a look is the update in the ledger, whose id is made of that time. So a look that is cut off before
its updates are recorded is as none, and one that is repeated adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lineage_orch.dbt.freshness import Freshness
from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.plan import plan_graph
from lineage_orch.plan.producing import producing_sources
from lineage_orch.text import count, listed, span
from lineage_orch.updates import SourceUpdate

OBSERVED = "observed:"
"""How the ``update_id`` of a load begins that was observed."""


@dataclass(frozen=True)
class Observation:
    """What one look at the sources found, all by unique_id.

    Attributes:
        asked: the sources that were to be looked at.
        recorded: those that were loaded since the ledger last heard of them, with the time of their newest row (UTC).
        young: those whose newest row may be of a load that is still at work, and how old it is; they are left to the
            next look.
        errors: why others could not be asked.
        unseen: those at which dbt does not look, for want of config.
        unknown: what the sources.json that was handed in names and the manifest does not.
        tick: of the last update that was recorded; None: there was none.
    """

    asked: tuple[str, ...]
    recorded: Mapping[str, datetime]
    young: Mapping[str, timedelta]
    errors: Mapping[str, str]
    unseen: tuple[str, ...]
    unknown: tuple[str, ...]
    tick: int | None = None

    def lines(self, names: Mapping[str, str]) -> list[str]:
        """Return all of it, in lines for people; ``names``: what they call the sources, by unique_id."""
        return self.findings(names) + self.complaints(names)

    def findings(self, names: Mapping[str, str]) -> list[str]:
        """Return what was found, in lines for people."""
        lines = [f"{names[each]} was loaded at {at:%Y-%m-%d %H:%M:%S} UTC." for each, at in self.recorded.items()]
        lines += [_left(names[each], age) for each, age in self.young.items()]
        if not lines:
            lines.append(f"Nothing new in {count(len(self.asked) - len(self.errors) - len(self.unseen), 'source')}.")
        return lines

    def complaints(self, names: Mapping[str, str]) -> list[str]:
        """Return what could not be looked at, and what to do, in lines for people."""
        lines = [f"{names[each]} could not be looked at: {why}" for each, why in self.errors.items()]
        if self.unseen:
            them = listed((names[each] for each in self.unseen), most=8)
            lines.append(
                f"dbt does not look at {them}: set loaded_at_field (or loaded_at_query), and freshness with warn_after "
                "or error_after, in the config of the source."
            )
        if self.unknown:
            lines.append(
                f"Not in the manifest, and passed over: {listed(self.unknown)}. Is the sources.json of this project?"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values; ages in seconds."""
        return {
            "asked": list(self.asked),
            "recorded": {each: at.isoformat() for each, at in self.recorded.items()},
            "young": {each: age.total_seconds() for each, age in self.young.items()},
            "errors": dict(self.errors),
            "unseen": list(self.unseen),
            "unknown": list(self.unknown),
            "tick": self.tick,
        }


def to_look_at(
    lineage: Lineage, snapshot: LedgerSnapshot, names: Iterable[str] = (), *, also_produced: bool = False
) -> tuple[str, ...]:
    """Return the unique_ids of the sources to look at: those that are named, or all that no producer reports.

    One that nothing reads is not worth a query.

    Raises:
        UnknownSourceError: no source has such a name.
    """
    if named := tuple(names):
        return tuple(dict.fromkeys(lineage.resolve_sources(*named)))
    graph = plan_graph(lineage)
    read = {graph.ids[parent] for parents in graph.parents for parent in parents}
    left = frozenset() if also_produced else producing_sources(lineage, snapshot)
    # dbt does not ask for the freshness of what another project builds.
    return tuple(each for each in lineage.sources if each in read and each not in left and each.startswith("source."))


def observe(
    found: Freshness, asked: Iterable[str], lineage: Lineage, snapshot: LedgerSnapshot, settle: timedelta
) -> tuple[Observation, list[SourceUpdate]]:
    """Return what a look found, and the updates that it makes.

    A newest row is news unless a load is known that brought it: one of that very time, or one that ended ``settle``
    later or more, after which a load has all its rows in. A row that is younger than ``settle``, when it is looked at,
    waits: its load may be at work, with more rows to come of that very time.

    Args:
        settle: how long a load takes at most from the time that it writes into its rows to the last of them.
    """
    asked = tuple(asked)
    updates: list[SourceUpdate] = []
    young: dict[str, timedelta] = {}
    for source in asked:
        loaded_at, at = found.seen.get(source, (None, None))
        if loaded_at is None or at is None:
            continue
        known = snapshot.loaded_at.get(source)
        if source in snapshot.sources and known is not None and (loaded_at == known or loaded_at <= known - settle):
            continue
        # One that is far ahead is of a wrong clock or zone: it would wait until that time has come.
        if abs(at - loaded_at) < settle:
            young[source] = at - loaded_at
        else:
            updates.append(SourceUpdate(source, f"{OBSERVED}{loaded_at.astimezone(UTC).isoformat()}", loaded_at))
    observation = Observation(
        asked,
        {update.source: update.loaded_at for update in updates},
        young,
        {each: why for each, why in found.errors.items() if each in asked},
        tuple(each for each in asked if each not in found.seen and each not in found.errors),
        tuple(sorted((found.seen.keys() | found.errors.keys()) - lineage.sources.keys())),
    )
    return observation, updates


def _left(name: str, age: timedelta) -> str:
    seconds = timedelta(seconds=round(abs(age).total_seconds()))
    when = "old" if age >= timedelta(0) else "ahead of the warehouse's clock"
    return f"{name} is left to the next look: its newest row is {span(seconds)} {when}, and may be of a load at work."
