"""A dbt command that a person typed: run under the build lock, and its results recorded as far as they tell of builds.

What dbt itself reports counts, as in any build: a node is recorded when it succeeded as a whole and each test on it
that the command ran passed or warned. ``run``, ``seed`` and ``snapshot`` run no tests. ``test`` builds nothing, so
nothing is recorded of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lineage_orch.builds.by_hand import REFRESHED_SPAN
from lineage_orch.dbt.command import REFUSED, REFUSED_VARIABLES, is_set, option_values, options
from lineage_orch.dbt.engine import Outcome, Result
from lineage_orch.dbt.microbatch import built_in_part, moment
from lineage_orch.dbt.process import ProcessDbt
from lineage_orch.dbt.recorder import BuildRecorder
from lineage_orch.errors import SettingsError
from lineage_orch.ledger import Ledger, LedgerSnapshot
from lineage_orch.ledger.lock import BuildLock
from lineage_orch.ledger.snapshot import OPEN
from lineage_orch.lineage import Lineage
from lineage_orch.plan import failure_identity, plan_graph
from lineage_orch.plan.windows import all_extents

_BUILDS = frozenset({"build", "run", "seed", "snapshot"})
# They build nothing, and what they read or write is not to change under them.
_LOCKED = frozenset({"test", "run-operation"})
_ASKS = frozenset({"ls", "list", "compile", "parse", "docs", "source", "show", "debug", "deps", "clean", "init"})
_OTHERS = {
    "retry": "it repeats whatever was run last, with the flags and the target of then; `lineage-orch build` takes up "
    "what failed",
    "clone": "what it makes are copies from another place; call dbt itself for it",
}
# These may be typed: they say what to build, which is up to the person here, or what it is compared with.
_FREE = frozenset({"--select", "--models", "--model", "--exclude", "--selector", "--state"})
_PLACES = frozenset({"--target", "--profile", "--profiles-dir", "--project-dir", "--target-path", "--vars"})
_HAS_AN_OPTION = frozenset({"--target", "--profiles-dir", "--project-dir", "--vars"})
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class TypedCommand:
    """A dbt command, as it was typed.

    Attributes:
        args: its words, without ``dbt``.
        name: build, test, ls, ...; "" where there is none.
        start: where the batches begin that it builds of microbatch models; None where dbt decides.
        end: where they end; None for now.
    """

    args: tuple[str, ...]
    name: str
    start: datetime | None = None
    end: datetime | None = None

    @property
    def is_locked(self) -> bool:
        """Whether it runs under the build lock; all else only asks, and is passed on as it is."""
        return self.name in _BUILDS | _LOCKED

    @property
    def is_known(self) -> bool:
        """Whether it is known what it does."""
        return not self.name or self.name in _BUILDS | _LOCKED | _ASKS

    @property
    def runs_tests(self) -> bool:
        """Whether it tests what it builds."""
        return self.name == "build"

    @classmethod
    def of(cls, args: Sequence[str], environ: Mapping[str, str] = os.environ) -> TypedCommand:
        """Read a command.

        Args:
            args: its words, without ``dbt``.
            environ: where dbt finds wishes too.

        Raises:
            SettingsError: it would build somewhere else than the ledger tells of, or record what is not whole.
        """
        name = args[0] if args else ""
        if {"--help", "-h", "--version"}.intersection(args):
            return cls(tuple(args), "")
        if not name or name.startswith("-"):
            raise SettingsError(
                "begin with the command of dbt, its options after it: lineage-orch dbt -- build --select revenue"
            )
        if name in _OTHERS:
            raise SettingsError(f"`dbt {name}` is not run here: {_OTHERS[name]}")
        given = {option for word in args for option in options(word)}
        wrong = given & _PLACES
        if name in _BUILDS:
            given |= {option for variable, option in REFUSED_VARIABLES.items() if is_set(environ, variable)}
            wrong = given & REFUSED.keys() - _FREE
        for option in sorted(wrong):
            before = f"; or give it before the --: lineage-orch dbt {option} ... -- {name}"
            instead = before if option in _HAS_AN_OPTION else ""
            raise SettingsError(f"`dbt {name}` may not have {option} here: {REFUSED[option]}{instead}")
        if name not in _BUILDS:
            return cls(tuple(args), name)
        start = _time(args, environ, "--event-time-start")
        end = _time(args, environ, "--event-time-end")
        if "--full-refresh" in given or "-f" in args or is_set(environ, "DBT_FULL_REFRESH"):
            if start or end:
                raise SettingsError(REFRESHED_SPAN)
            start = _LONG_AGO
        return cls(tuple(args), name, start, end)


def _time(args: Sequence[str], environ: Mapping[str, str], option: str) -> datetime | None:
    given = option_values(args, option) or [environ.get("DBT_" + option[2:].upper().replace("-", "_"), "")]
    return moment(given[-1], option) if given[-1] else None


def run_typed(
    typed: TypedCommand,
    dbt: ProcessDbt,
    *,
    ledger: Ledger,
    held: BuildLock,
    lineage: Lineage,
    tick: int,
    snapshot: LedgerSnapshot,
    missing: Collection[str],
    clock: Callable[[], datetime],
    echo: Callable[[str], object],
) -> tuple[int, BuildRecorder, Outcome]:
    """Run a command and record what it built; returns its exit code, what is recorded, and what dbt said.

    A node that begins is due until it is recorded, so that neither a failure nor a kill leaves something in the
    warehouse that the ledger does not tell of.

    Args:
        held: the build lock; a command that loses it is stopped.
        lineage: the project as it is when the command begins.
        tick: the R of :meth:`Ledger.begin_build`.
        snapshot: the ledger at R.
        missing: the nodes whose relation is not in the warehouse, of which only microbatch models matter.
        clock: returns the time now (aware).
        echo: takes dbt's lines, for people.

    Raises:
        DbtError: dbt could not be started.
        LedgerError: the ledger cannot be written, or the lock was lost.
    """
    # Before dbt writes the manifest anew, which is read again for them.
    identities = {node: lineage.identity_parts(node) for node in lineage.nodes}
    extents = all_extents(lineage, snapshot)
    in_part = built_in_part(lineage, lineage.nodes, snapshot.nodes, missing, clock(), typed.start, typed.end, extents)
    graph = plan_graph(lineage)
    ended: dict[str, Result] = {}

    def begin(unique_id: str) -> None:
        held.check_now_and_then()
        if unique_id in in_part:  # no good build of it will say that what reads it is stale
            readers = graph.children[graph.index[unique_id]]
            ledger.begin_nodes(tick, [graph.ids[number] for number in readers])
        elif unique_id in lineage.nodes and typed.name in _BUILDS:
            ledger.begin_nodes(tick, [unique_id])

    def end(result: Result) -> None:
        ended[result.unique_id] = result

    def record(outcome: Outcome) -> BuildRecorder:
        nodes = [each.unique_id for each in outcome.results if each.unique_id in lineage.nodes]
        recorder = BuildRecorder(
            {node: lineage.tests_on(node) if typed.runs_tests else () for node in nodes},
            lambda node: ledger.record_built(
                tick,
                [node] if node not in in_part else [],
                built_at=clock(),
                identities={node: identities[node]},
                seconds=recorder.seconds_of(node),
                extents={node: extents.get(node, OPEN) | OPEN},
            ),
            lambda node: ledger.take_back(tick, [node]),
            tested_by=lineage.tested_by,
            check=held.check_now_and_then,
            record_failed=lambda failed: ledger.record_failed(
                tick,
                {node: why for node, why in failed.items() if node not in in_part},
                failed_at=clock(),
                identities={node: failure_identity(lineage, node) for node in failed},
            ),
        )
        recorder.finish(outcome.results, cut_short=outcome.cut_short)
        return recorder

    try:
        code, outcome = dbt.command(typed.args, begin, end, echo=_logger(echo))
    except BaseException:
        record(Outcome(tuple(ended.values()), cut_short=True))
        raise
    recorder = record(outcome)
    if recorder.ledger_error is not None:
        raise recorder.ledger_error
    return code, recorder, outcome


def _logger(echo: Callable[[str], object]) -> logging.Logger:
    """Return a logger that hands each line on as dbt shows it in a terminal."""

    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            echo(f"{datetime.now():%H:%M:%S}  {record.getMessage()}")

    logger = logging.Logger("lineage_orch.builds.typed", logging.INFO)
    logger.addHandler(Echo())
    return logger
