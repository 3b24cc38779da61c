"""dbt in this process."""

from __future__ import annotations

import atexit
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from lineage_orch.dbt.engine import OnResult, Outcome, Result
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import DbtError
from lineage_orch.settings import LineageOrchSettings

if TYPE_CHECKING:
    from prefect_dbt import PrefectDbtRunner, PrefectDbtSettings


# Two dbt invocations at once in one process are not safe: dbt keeps its flags, adapters and working directory
# in globals.
_one_at_a_time = threading.Lock()


class DbtRunner:
    """dbt in this process: through ``PrefectDbtRunner`` inside a Prefect run, which then shows each node as a task."""

    def __init__(self, project: DbtProject, settings: LineageOrchSettings) -> None:
        self._project = project
        self._settings = settings

    def parse(self) -> None:
        """Write the project's manifest anew."""
        from dbt.cli.main import dbtRunner

        with _one_at_a_time:
            outcome = dbtRunner().invoke(["--quiet", "parse", *self._places(), *self._scope()])
        if not outcome.success:
            raise DbtError(
                f"the dbt project in {self._project.directory} does not parse: {_why(outcome.exception)}. "
                "Try `dbt parse` there"
            )

    def build(self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult) -> Outcome:
        """Build a selection."""
        args = [self._settings.dbt_command, "--select", *select]
        if exclude:
            args += ["--exclude", *exclude]
        args += [*self._scope(), *self._settings.dbt_flags]
        with _one_at_a_time:
            try:
                outcome = self._invoke(args, on_result)
            finally:
                _let_go_of_files()
        if outcome.exception is not None:
            raise DbtError(
                f"`dbt {self._settings.dbt_command}` could not run in {self._project.directory}: "
                f"{_why(outcome.exception)}"
            )
        results = getattr(outcome.result, "results", None) or ()
        return Outcome(tuple(map(_final, results)), cut_short=not outcome.success and _fails_fast())

    def _scope(self) -> list[str]:
        args = ["--target", self._project.target]
        if self._settings.vars:
            args += ["--vars", json.dumps(self._settings.vars, default=str)]
        return args

    def _places(self) -> list[str]:
        project = self._project
        return [
            "--project-dir",
            str(project.directory),
            "--profiles-dir",
            str(project.profiles_dir),
            "--target-path",
            str(project.target_path),
        ]

    def _invoke(self, args: list[str], on_result: OnResult) -> Any:
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is not None:
            return self._invoke_in_prefect(args, on_result)
        from dbt.cli.main import dbtRunner

        command, *rest = args
        return dbtRunner(callbacks=[_listener(on_result)]).invoke(["--quiet", command, *self._places(), *rest])

    def _invoke_in_prefect(self, args: list[str], on_result: OnResult) -> Any:
        from dbt_common.events.base_types import EventLevel
        from prefect_dbt import PrefectDbtRunner, PrefectDbtSettings

        settings = _in_place(PrefectDbtSettings)(
            project_dir=self._project.directory,
            profiles_dir=self._project.profiles_dir,
            target_path=self._project.target_path,
            log_level=EventLevel(_log_level()),
        )
        runner = _listening(PrefectDbtRunner, on_result)(settings=settings, raise_on_failure=False)
        try:
            return runner.invoke(args)
        except ValueError as error:
            raise DbtError(f"dbt could not run in {self._project.directory}: {error}") from error


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


def _in_place(settings: type[PrefectDbtSettings]) -> type[PrefectDbtSettings]:
    """Return PrefectDbtSettings that copy profiles.yml only where there is a Prefect block or variable to fill in.

    From the copy, in another folder and new each time, a path that counts from the profile's own folder leads
    nowhere, and dbt parses the whole project anew at each build.
    """

    class InPlace(settings):  # type: ignore[misc]
        @contextmanager
        def resolve_profiles_yml(self) -> Iterator[str]:
            if "prefect." in (self.profiles_dir / "profiles.yml").read_text(encoding="utf-8"):
                with super().resolve_profiles_yml() as folder:
                    yield folder
            else:
                yield str(self.profiles_dir)

    return InPlace


def _listening(runner: type[PrefectDbtRunner], on_result: OnResult) -> type[PrefectDbtRunner]:
    """Return a PrefectDbtRunner that also tells us of results, at once and in dbt's own thread.

    Its hooks tell only of models, and later, from a queue. If this method of it should go one day, results are
    still taken from the end of the command; what is lost is the record of what finished before a kill.
    """

    class Listening(runner):  # type: ignore[misc]
        def _create_unified_callback(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
            show = super()._create_unified_callback(*args, **kwargs)
            listen = _listener(on_result)

            def both(event: Any) -> None:
                listen(event)
                show(event)

            return both

    return Listening


def _listener(on_result: OnResult) -> Callable[[Any], None]:
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
            on_result(Result(unique_id, result.status or event.data.node_info.node_status, result.message))

    return listen


def _final(result: Any) -> Result:
    """Return a dbt RunResult as ours; ``batch_results`` is there since dbt 1.9."""
    batches = getattr(result, "batch_results", None)
    failed = tuple(_batch(start) for start, _ in batches.failed) if batches is not None else ()
    message = str(result.message or "")
    if failed and message in ("", "ERROR"):  # all of them failed, and dbt says no more
        message = f"all {len(failed)} batches failed; dbt's log says why" if len(failed) > 1 else "its batch failed"
    return Result(result.node.unique_id, str(result.status), message, failed)


def _batch(start: Any) -> str:
    day: str = start.strftime("%Y-%m-%d")
    return day if not (start.hour or start.minute) else start.strftime("%Y-%m-%d %H:%M")


def _fails_fast() -> bool:
    """Whether the command that just ended in this thread ran with --fail-fast, from wherever that was set."""
    from dbt.flags import get_flags

    return bool(getattr(get_flags(), "FAIL_FAST", False))


def _let_go_of_files() -> None:
    """Close a DuckDB file that dbt keeps open until the process ends.

    DuckDB lets one process in at a time. A load that builds in its own process may live long after the build, and
    the next load's build is another process.
    """
    connections = sys.modules.get("dbt.adapters.duckdb.connections")
    if connections is not None:
        manager = connections.DuckDBConnectionManager
        environment = manager._ENV
        if environment is not None and not str(environment.creds.path).startswith(":memory:"):
            manager.close_all_connections()
            environment.close()
        _forget_duckdb_at_exit()


@cache
def _forget_duckdb_at_exit() -> None:
    """Let nothing hold DuckDB's types when the interpreter ends, else its binding prints a page of "leaked".

    Prefect's threads outlive the interpreter, and through Prefect's registry of blocks they hold prefect_dbt's,
    which hold dbt and its adapters: the only ones here that hold DuckDB.
    """

    def forget() -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("dbt.adapters.duckdb"):
                for each in [each for each in vars(module) if not each.startswith("__")]:
                    setattr(module, each, None)

    atexit.register(forget)


def _why(exception: BaseException | None) -> str:
    text = str(exception).strip() if exception is not None else "it gave no reason"
    return " ".join(text.split())
