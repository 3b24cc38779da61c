"""What a project may know of the others in its ledger: plain values, which no database is needed for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from lineage_orch.updates import SourceUpdate

DEPLOYMENT = "lineage_orch.deployment"
"""The mark of a scope that names the deployment which builds it, as ``flow/name``."""


class Published(NamedTuple):
    """A table of a project, as the others see it.

    Attributes:
        relation: its name, in the one form that is compared.
        parents: of a node, the unique_ids of what it reads; of a source None.
    """

    relation: str
    parents: tuple[str, ...] | None = None


class Place(NamedTuple):
    """The scope of a ledger: a dbt project, its target, and where that builds (``database.schema``)."""

    project: str
    target: str
    place: str

    def __str__(self) -> str:
        return f"{self.project}/{self.target}"


@dataclass(frozen=True)
class BuiltElsewhere:
    """A node of another project, target or place, that builds what is a source here.

    Attributes:
        scope: of whom it is.
        node: its unique_id there.
        tick: of its last good build that changed it, by the clock of its scope; 0: it was never built.
        built_at: when that was (UTC); None: it was never built.
        is_known: whether that build is an update of the source here already.
    """

    scope: Place
    node: str
    tick: int
    built_at: datetime | None
    is_known: bool = False

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.node.split('.', 2)[-1]} of project {self.scope.project}"

    @property
    def update_id(self) -> str:
        """The ``update_id`` of its last build as an update: the same, whoever asks and however often."""
        return f"built:{' '.join(self.scope)} {self.node} at tick {self.tick}"

    def update_of(self, source: str) -> SourceUpdate:
        """Return its last build as an update of a source; it was built at least once."""
        assert self.built_at is not None
        return SourceUpdate(source, self.update_id, self.built_at, producer=self.name)


@dataclass(frozen=True)
class ReadElsewhere:
    """A project that has not taken in yet what was built here.

    Attributes:
        scope: which.
        sources: what is new there: the unique_ids of its sources.
        deployment: the one that builds it, as ``flow/name``; None where that is not known.
    """

    scope: Place
    sources: tuple[str, ...]
    deployment: str | None


@dataclass(frozen=True)
class Origin:
    """A load, or a build of another project, that a build of a node took in.

    Attributes:
        source: the unique_id of the source, in the project of the node.
        tick: of the update, by the clock of that project.
        at: when it was loaded or built (UTC).
        producer: who loaded it; None: not known.
    """

    source: str
    tick: int
    at: datetime
    producer: str | None
