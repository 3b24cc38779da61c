"""dbt in this process."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from lineage_orch.dbt.command import check_environment, selection
from lineage_orch.dbt.compat import LOG, PARTIAL_PARSE, close_duckdb, listening_runner, settings_in_place
from lineage_orch.dbt.engine import DbtEngine, OnResult, Outcome, Result
from lineage_orch.dbt.fingerprint import as_show, counted_as_changed, inline_queries, read_answer
from lineage_orch.dbt.freshness import RUNTIME_ERROR, Freshness, Seen, seen_at
from lineage_orch.dbt.profile import profiles_for_dbt
from lineage_orch.dbt.project import DbtProject
from lineage_orch.dbt.relations import missing_from_cache
from lineage_orch.dbt.run_results import of_batches
from lineage_orch.errors import DbtError
from lineage_orch.lineage import Lineage
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.text import one_line

Listener = Callable[[Any], None]
"""A callback for dbt's events (``EventMsg``), as ``dbtRunner`` takes them."""

# Two dbt invocations at once in one process are not safe: dbt keeps its flags, adapters and working directory
# in globals.
_one_at_a_time = threading.Lock()


class DbtRunner(DbtEngine):
    """dbt in this process: through ``PrefectDbtRunner`` inside a Prefect run, which then shows each node as a task."""

    has_callbacks = True
    tells_assets = True

    def __init__(self, project: DbtProject, settings: LineageOrchSettings) -> None:
        self._project = project
        self._settings = settings

    def version(self) -> str:
        """Return the version of the dbt-core that is installed here."""
        return metadata.version("dbt-core")

    def parse(self) -> str | None:
        """Write the project's manifest anew; returns the id of the dbt invocation."""
        self._start_from_shared_parse()
        with _one_at_a_time, self._noting() as listen:
            outcome = self._invoke_plain(["parse", *self._project.scope_args], listen)
            if not outcome.success:
                raise DbtError(
                    f"the dbt project in {self._project.directory} does not parse: {_why(outcome.exception)}. "
                    "Try `dbt parse` there"
                )
        return listen.invocation_id

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        """Build a selection."""
        check_environment(self._settings.dbt_flags)
        args = selection(self._settings, select, exclude)
        args += [*self._project.scope_args, *flags, *self._settings.dbt_flags]
        with _at_the_warehouse(), self._noting(_listener(on_result)) as listen:
            outcome = self._invoke(args, listen)
        if outcome.exception is not None:
            raise DbtError(
                f"`dbt {self._settings.dbt_command}` could not run in {self._project.directory}: "
                f"{_why(outcome.exception)}"
            )
        results = getattr(outcome.result, "results", None) or ()
        return Outcome(tuple(map(_final, results)), cut_short=not outcome.success and _fails_fast())

    def missing_relations(self, lineage: Lineage) -> frozenset[str] | None:
        """Return the unique_ids of the nodes whose relation is not in the warehouse; None if dbt cannot tell.

        dbt itself lists the schemas of the project, once each, into its cache of relations, which this reads: an
        inline query of no tables is compiled, and nothing is run.
        """
        with _at_the_warehouse():
            outcome = self._ask(["compile", "--inline", "select 1"])
            if not outcome.success:
                LOG.warning("Which relations are in the warehouse is not known: %s", _why(outcome.exception))
                return None
            return missing_from_cache(lineage)

    def source_freshness(self, lineage: Lineage, sources: Sequence[str]) -> Freshness:
        """Return when these sources were loaded last."""
        select = [lineage.selectors.source(each) for each in sources]
        with _at_the_warehouse():
            outcome = self._ask(["source", "freshness", "--select", *select])
        if outcome.result is None:
            raise DbtError(
                f"`dbt source freshness` could not run in {self._project.directory}: {_why(outcome.exception)}"
            )
        seen: dict[str, Seen] = {}
        errors: dict[str, str] = {}
        for result in outcome.result.results:
            if str(result.status) == RUNTIME_ERROR:
                errors[result.node.unique_id] = one_line(str(result.message))
            else:
                seen[result.node.unique_id] = seen_at(result.max_loaded_at, result.snapshotted_at)
        return Freshness(seen, errors)

    def contents(self, lineage: Lineage, nodes: Mapping[str, Collection[str]]) -> Mapping[str, str]:
        """Return what ``dbt show`` finds in the tables of these nodes."""
        found: dict[str, str] = {}
        for some, query in inline_queries(lineage, nodes):
            shown: list[str] = []

            def hear(event: Any, shown: list[str] = shown) -> None:
                if event.info.name == "ShowNode":
                    shown.append(event.data.preview)

            with _at_the_warehouse():
                outcome = self._ask(["--no-populate-cache", *as_show(query)], hear)
            if outcome.success and shown:
                found |= read_answer(lineage, some, shown[0])
            else:
                LOG.warning("%s: %s", counted_as_changed(some), _why(outcome.exception))
        return found

    def ls(self, selector: str) -> frozenset[str]:
        """Return what ``dbt ls`` says of a selector."""
        args = ["ls", "--select", selector, "--output", "json", "--output-keys", "unique_id", *self._project.scope_args]
        with _one_at_a_time, self._noting() as listen:
            outcome = self._invoke_plain(args, listen)
        if not outcome.success:
            raise DbtError(f"dbt cannot say what {selector!r} selects: {_why(outcome.exception)}")
        found: list[str] = outcome.result or []
        return frozenset(json.loads(each)["unique_id"] for each in found)

    def _ask(self, args: list[str], listen: Listener | None = None) -> Any:
        """Run a command that only asks: nothing is shown, and no artifact written."""
        return self._invoke_plain(["--log-level", "none", "--no-write-json", *args, *self._project.scope_args], listen)

    @contextmanager
    def _noting(self, listen: Listener = lambda _: None) -> Iterator[_Heard]:
        """Note, after dbt ran, that its manifest is made from what the project was when it began."""
        inputs = self._project.inputs()
        heard = _Heard(listen)
        yield heard
        if heard.invocation_id is not None:
            self._project.note_manifest(inputs, made_by=heard.invocation_id)

    def _start_from_shared_parse(self) -> None:
        """Where this target has a folder of its own, and it is new: begin with what others have parsed.

        dbt looks whether it fits, and parses anew if not.
        """
        import shutil

        shared, own = (
            folder / PARTIAL_PARSE for folder in (self._project.shared_target_path, self._project.target_path)
        )
        if own != shared and shared.is_file() and not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(shared, own)

    def _invoke(self, args: list[str], listen: Listener) -> Any:
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is not None:
            return self._invoke_in_prefect(args, listen)
        return self._invoke_plain(args, listen)

    def _invoke_plain(self, args: list[str], listen: Listener | None = None) -> Any:
        from dbt.cli.main import dbtRunner

        project = self._project
        with profiles_for_dbt(project.profiles_dir, project.directory) as profiles_dir:
            places = ["--project-dir", str(project.directory), "--profiles-dir", str(profiles_dir)]
            places += ["--target-path", str(project.target_path)]
            return dbtRunner(callbacks=[listen] if listen else []).invoke(["--quiet", *args, *places])

    def _invoke_in_prefect(self, args: list[str], listen: Listener) -> Any:
        from dbt_common.events.base_types import EventLevel
        from prefect_dbt import PrefectDbtRunner, PrefectDbtSettings

        settings = settings_in_place(PrefectDbtSettings)(
            project_dir=self._project.directory,
            profiles_dir=self._project.profiles_dir,
            target_path=self._project.target_path,
            log_level=EventLevel(_log_level()),
        )
        runner = listening_runner(PrefectDbtRunner, listen)(settings=settings, raise_on_failure=False)
        try:
            return runner.invoke(args)
        except ValueError as error:
            raise DbtError(f"dbt could not run in {self._project.directory}: {error}") from error


@contextmanager
def _at_the_warehouse() -> Iterator[None]:
    """Hold dbt to what is run in the block; a DuckDB file that it opened is let go of afterwards."""
    with _one_at_a_time:
        try:
            yield
        finally:
            close_duckdb()


class _Heard:
    """A callback for dbt's events that keeps the id of the invocation, and hands each event on."""

    def __init__(self, listen: Listener) -> None:
        self.invocation_id: str | None = None
        self._listen = listen

    def __call__(self, event: Any) -> None:
        self.invocation_id = event.info.invocation_id or self.invocation_id
        self._listen(event)


def _log_level() -> str:
    """Prefect's own level, in dbt's words.

    By default PrefectDbtSettings take it in lower case, and "warning" is none of dbt's. Any other level than
    Prefect's would outlive the build: prefect-dbt sets it on the loggers that all runs of the process share.
    """
    import logging

    from prefect.settings import get_current_settings

    level = logging.getLevelName(get_current_settings().logging.level)
    number = level if isinstance(level, int) else logging.INFO
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    return "info" if number >= logging.INFO else "debug"


def _listener(on_result: OnResult) -> Listener:
    """Return a callback for dbt's events that tells of each node once, when it has finished as a whole.

    A microbatch model is a node that runs others: dbt fires NodeStart and NodeFinished for the model, and in between
    for each batch, all with the model's unique_id (dbt 1.9 to 1.11, ``GraphRunnableTask.call_runner``). So it has
    finished when it finished as often as it started.
    """
    running: Counter[str] = Counter()
    lock = threading.Lock()  # batches may run at the same time

    def listen(event: Any) -> None:
        name = event.info.name
        if name not in ("NodeStart", "NodeFinished"):
            return
        unique_id = event.data.node_info.unique_id
        with lock:
            running[unique_id] += 1 if name == "NodeStart" else -1
            ended = name == "NodeFinished" and running[unique_id] <= 0
        if ended:
            result = event.data.run_result
            # Of a skipped node the status in node_info may still be "started".
            status = result.status or event.data.node_info.node_status
            on_result(Result(unique_id, status, result.message, seconds=result.execution_time))

    return listen


def _final(result: Any) -> Result:
    """Return a dbt RunResult as ours; ``batch_results`` is there since dbt 1.9."""
    batches = getattr(result, "batch_results", None)
    failed = tuple(_batch(start) for start, _ in batches.failed) if batches is not None else ()
    message = of_batches(str(result.message or ""), failed)
    return Result(result.node.unique_id, str(result.status), message, failed, result.execution_time)


def _batch(start: Any) -> str:
    day: str = start.strftime("%Y-%m-%d")
    return day if not (start.hour or start.minute) else start.strftime("%Y-%m-%d %H:%M")


def _fails_fast() -> bool:
    """Whether the command that just ended in this thread ran with --fail-fast, from wherever that was set."""
    from dbt.flags import get_flags

    return bool(getattr(get_flags(), "FAIL_FAST", False))


def _why(exception: BaseException | None) -> str:
    return one_line(exception) if exception is not None else "it gave no reason"
