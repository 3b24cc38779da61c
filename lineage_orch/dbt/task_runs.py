"""Each model, snapshot and seed that a dbt process builds, as a task run of the Prefect flow run around it."""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

from lineage_orch.dbt.engine import BUILT, FAILED, Result
from lineage_orch.loads.completion import Logger
from lineage_orch.text import one_line

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_KINDS = ("model", "snapshot", "seed")


class NodeTaskRuns:
    """Shows nodes in Prefect's UI as they begin and end; use it as a context manager.

    The server is told in a thread of its own: a build does not wait for it. When it cannot be told, that is said once,
    and the rest is not shown.

    Args:
        flow_run_id: of the flow run; None outside of one: then nothing is shown.
        client: returns a client of Prefect's API, to use as a context manager.
    """

    def __init__(
        self,
        flow_run_id: UUID | None,
        logger: Logger,
        client: Callable[[], SyncPrefectClient] | None = None,
    ) -> None:
        self._flow_run_id = flow_run_id
        self._logger = logger
        self._client = client or _client
        self._ids: dict[str, UUID] = {}
        self._calls: queue.SimpleQueue[Callable[[SyncPrefectClient], Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            from prefect.states import Cancelled

            # What dbt did not end, because it was stopped.
            for unique_id in list(self._ids):
                self._set(self._ids.pop(unique_id), Cancelled(message="dbt was stopped before it ended"))
            self._calls.put(None)
            self._thread.join(timeout=10)

    def started(self, unique_id: str) -> None:
        """Show that a node is being built."""
        if self._flow_run_id is not None and unique_id.startswith(tuple(f"{kind}." for kind in _KINDS)):
            from prefect.states import Running

            self._create(unique_id, Running())

    def ended(self, result: Result) -> None:
        """Show how a node ended."""
        run = self._ids.pop(result.unique_id, None)
        if run is None:
            return
        from prefect.states import Cancelled, Completed, Failed

        message = one_line(result.message, most=1000) or result.status
        if result.status in BUILT:
            self._set(run, Completed(message=message))
        elif result.status in FAILED:
            self._set(run, Failed(message=message))
        else:
            self._set(run, Cancelled(name="Skipped", message=message))

    def _create(self, unique_id: str, state: Any) -> None:
        from prefect import Task

        run = self._ids[unique_id] = uuid4()
        kind, _, *name = unique_id.split(".")
        # Only its key and name are told to the server.
        task: Task[Any, Any] = Task(fn=_built_by_dbt, name=f"dbt {kind}", task_run_name=None)
        shown = f"{kind} {'.'.join(name)}"
        flow_run_id = self._flow_run_id
        self._call(
            lambda client: client.create_task_run(
                task, flow_run_id, dynamic_key=f"{unique_id}-{run}", id=run, name=shown, state=state
            )
        )

    def _set(self, run: UUID, state: Any) -> None:
        self._call(lambda client: client.set_task_run_state(run, state, force=True))

    def _call(self, call: Callable[[SyncPrefectClient], Any]) -> None:
        if self._thread is None:
            import contextvars

            # With the context: it says which server.
            context = contextvars.copy_context()
            self._thread = threading.Thread(
                target=context.run, args=(self._work,), name="lineage_orch-task-runs", daemon=True
            )
            self._thread.start()
        self._calls.put(call)

    def _work(self) -> None:
        import httpx
        from prefect.exceptions import PrefectException

        try:
            with self._client() as client:
                while (call := self._calls.get()) is not None:
                    call(client)
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            self._logger.warning(
                "Prefect does not take the task runs that show dbt's nodes; the build goes on without: %s",
                one_line(error),
            )
            while self._calls.get() is not None:
                pass


def flow_run_id() -> UUID | None:
    """Return the id of the Prefect flow run that this is in; None outside of one."""
    # Prefect takes a second to import; where nothing has, there is no flow run.
    prefect = sys.modules.get("prefect.context")
    context = prefect.FlowRunContext.get() if prefect is not None else None
    return context.flow_run.id if context is not None and context.flow_run is not None else None


def run_logger() -> Logger:
    """Return the Prefect run's logger, in a run; else the library's, which shows warnings and errors alone."""
    if flow_run_id() is None:
        return logging.getLogger("lineage_orch.dbt")
    from prefect.logging import get_run_logger

    logger: Logger = get_run_logger()
    return logger


def _built_by_dbt() -> None:
    """Stands for what dbt does."""


def _client() -> SyncPrefectClient:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)
