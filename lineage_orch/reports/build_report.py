"""What a build did: data, rendered elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lineage_orch.errors import BuildFailedError

if TYPE_CHECKING:
    from lineage_orch.plan import Held


@dataclass
class BuildReport:
    """What one call of ``Orchestrator.build`` did.

    ``built``: the nodes that were built well, in the order in which they finished. ``failed``: each node or test
    that failed, with dbt's message. ``blocked``: the nodes that wait for one that failed; they stay owed.
    ``held``: what is held, as of the last plan. ``next_due``: when the first of it may build (UTC). ``runs``: how
    often dbt was run. ``busy``: who held the lock, if this call left the work to somebody else.
    """

    built: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    held: Mapping[str, Held] = field(default_factory=dict)
    next_due: datetime | None = None
    runs: int = 0
    busy: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    def summary(self) -> str:
        """Return one line for people."""
        if self.busy and not self.runs:
            return f"The build is left to {self.busy}, who builds now and looks again when done."
        parts = []
        if self.built or not self.failed:
            parts.append(f"built {_count(self.built, 'node')}" if self.built else "nothing was due")
        if self.failed:
            parts.append(f"{len(self.failed)} failed ({_few(self.failed)})")
        if self.blocked:
            parts.append(f"{len(self.blocked)} wait for what failed")
        held = [node for node, each in self.held.items() if each.reason != "failed"]
        if held:
            until = f", the next until {self.next_due:%Y-%m-%d %H:%M:%S} UTC" if self.next_due else ""
            parts.append(f"{len(held)} held{until}")
        text = ", ".join(parts)
        return text[0].upper() + text[1:] + "."

    def raise_for_failures(self) -> None:
        """Raise BuildFailedError, which names each node and test that failed, if any did."""
        if self.failed:
            lines = [f"  {node}: {message}" for node, message in self.failed.items()]
            waiting = f"; {_count(self.blocked, 'node')} below stay owed" if self.blocked else ""
            raise BuildFailedError(
                f"{len(self.failed)} failed in dbt{waiting}. Mend them; the next build takes up what is owed.\n"
                + "\n".join(lines)
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return {
            "built": self.built,
            "failed": self.failed,
            "blocked": self.blocked,
            "held": {node: held_to_dict(each) for node, each in self.held.items()},
            "next_due": self.next_due.isoformat() if self.next_due else None,
            "runs": self.runs,
            "busy": self.busy,
        }


def held_to_dict(held: Held) -> dict[str, Any]:
    """Return why a node is held as JSON-ready values."""
    return {
        "reason": held.reason,
        "waiting_for": list(held.waiting_for),
        "until": held.until.isoformat() if held.until else None,
    }


def _count(things: list[str], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _few(things: Mapping[str, str]) -> str:
    names = [each.rpartition(".")[2] if not each.startswith("test.") else each.split(".")[2] for each in things]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
