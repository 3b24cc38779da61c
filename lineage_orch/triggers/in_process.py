"""Builds in the load's own process, or in a child of it.

A load's hook hands its updates to a builder thread, which takes all that wait, builds, and tells each of them when
a build that began after it was handed over has ended. So loads that complete together share one build. One builder
builds in this process, for loads that wait; the other has a child process build, for loads that must not.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.context import hydrated_context, serialize_context
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings

from lineage_orch.errors import LineageOrchError, TriggerError
from lineage_orch.producers import declared_sources
from lineage_orch.settings import LineageOrchSettings, handing_down
from lineage_orch.triggers.choice import Completion, Logger


class _Request:
    """What a hook asks of a builder. Requests of the same ``key`` may share a build."""

    def __init__(self, completion: Completion, settings: LineageOrchSettings, prefect: Any, logger: Logger) -> None:
        self.completion = completion
        self.settings = settings
        self.prefect = prefect
        self.logger = logger
        self.key = (settings, prefect)
        self.done: Future[Any] = Future()


class _Builder:
    """One thread that builds whatever waits, for as long as something waits."""

    def __init__(self, name: str, build: Callable[[list[_Request]], Any]) -> None:
        self._name = name
        self._build = build
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []
        self._thread: threading.Thread | None = None

    def submit(self, request: _Request) -> Future[Any]:
        with self._lock:
            self._waiting.append(request)
            if self._thread is None:
                # A daemon: whoever asked waits for it, and after Ctrl-C nobody does.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return request.done

    def join(self) -> None:
        """Wait until nothing waits; after Ctrl-C only for the build that is under way, after another for nothing."""
        interrupted = False
        while (thread := self._thread) is not None:
            try:
                thread.join()
            except KeyboardInterrupt:
                if interrupted:
                    return
                interrupted = True
                with self._lock:
                    self._waiting.clear()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                result = self._build(batch)
            except BaseException as error:  # noqa: BLE001 - handed to those who wait, who log it
                for request in batch:
                    request.done.set_exception(error)
            else:
                for request in batch:
                    request.done.set_result(result)

    def _next_batch(self) -> list[_Request]:
        """Take all that may share a build with the oldest; empty (and the thread ends) if nothing waits."""
        with self._lock:
            if not self._waiting:
                self._thread = None
                return []
            key = self._waiting[0].key
            batch = [request for request in self._waiting if request.key == key]
            self._waiting = [request for request in self._waiting if request.key != key]
            return batch


def _updates(batch: list[_Request]) -> list[dict[str, Any]]:
    return [update.to_dict() for request in batch for update in request.completion.updates]


def _declared(batch: list[_Request]) -> list[str]:
    named = [source for request in batch for source in request.completion.declared]
    return list(dict.fromkeys([*named, *declared_sources()]))


# In this process ---------------------------------------------------------------------------------------------


def build_and_wait(completion: Completion, settings: LineageOrchSettings, logger: Logger) -> None:
    """Build, and return when a build that began after this call has ended.

    Raises:
        TriggerError: Prefect would not run the build.
    """
    # The builder's thread starts with an empty context: without this it would talk to another Prefect API than
    # the load does, when that was chosen by `temporary_settings` or a test harness.
    prefect = serialize_context()["settings_context"]
    try:
        report = _here.submit(_Request(completion, settings, prefect, logger)).result()
    except LineageOrchError as error:
        logger.error("The load is complete, but the build that it set off failed: %s", error)
    except KeyboardInterrupt:
        logger.warning("The load is complete; its build was not waited for, and what it does not build stays owed.")
        raise
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        raise TriggerError(
            f"Prefect would not run build_affected ({type(error).__name__}: {error}); when its API answers again, "
            "run `lineage-orch reconcile` and `lineage-orch build`"
        ) from error
    else:
        logger.info("%s", report.summary())


def _build_here(batch: list[_Request]) -> Any:
    from lineage_orch.flows import build_affected

    with hydrated_context({"settings_context": batch[0].prefect}), handing_down(batch[0].settings):
        return build_affected(updates=_updates(batch), producers=_declared(batch))


_here = _Builder("lineage_orch-builder", _build_here)


# In a process of its own -------------------------------------------------------------------------------------


def build_in_a_process(completion: Completion, settings: LineageOrchSettings, logger: Logger) -> None:
    """Have a process of its own build, and return at once; this process waits for it before it ends."""
    if not _at_exit:
        # Registered now, when Prefect's client is at work: so it is run before the handler that stops this
        # process's own Prefect server.
        _at_exit.append(atexit.register(_beside.join))
    _beside.submit(_Request(completion, settings, _environment(), logger))
    logger.info("The build goes on in a process of its own; this process ends after it.")


def _build_beside(batch: list[_Request]) -> None:
    request = {
        "updates": _updates(batch),
        "producers": _declared(batch),
        "settings": batch[0].settings.dump(),
    }
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "lineage_orch.triggers.in_process"], stdin=subprocess.PIPE, env=batch[0].prefect
        )
        child.communicate(json.dumps(request).encode())
    except OSError as error:
        _tell(batch, f"could not be started ({error})")
        return
    # 0 and 1: its flow run has logged how it went.
    if child.returncode not in (0, 1):
        _tell(batch, f"ended with code {child.returncode}")


def _tell(batch: list[_Request], how: str) -> None:
    for request in batch:
        request.logger.error(
            "The load is complete, but the process that builds its models %s; run `lineage-orch reconcile` and "
            "`lineage-orch build`",
            how,
        )


_beside = _Builder("lineage_orch-builder-beside", _build_beside)
_at_exit: list[Any] = []


def _environment() -> dict[str, str]:
    """Return an environment in which a child talks to the same Prefect API as the caller."""
    # What names the caller's own run (PREFECT__FLOW_RUN_ID and the like) is not the child's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    environment.update(get_current_settings().to_environment_variables(exclude_unset=True))
    # The url also of a server that runs only as long as this process.
    environment["PREFECT_API_URL"] = str(get_client(sync_client=True).api_url).rstrip("/")
    return environment


def _main() -> int:
    from lineage_orch.flows import build_affected

    request = json.load(sys.stdin)
    try:
        with handing_down(LineageOrchSettings(**request.pop("settings"))):
            build_affected(**request)
    except LineageOrchError:
        return 1  # the flow run has logged it
    except KeyboardInterrupt:
        return 1  # whoever pressed Ctrl-C knows
    return 0


if __name__ == "__main__":
    sys.exit(_main())
