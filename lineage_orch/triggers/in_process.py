"""A completed load has its models built in its own process, or in a child of it.

The update is in the ledger first, before anything that can fail. Then the load's hook hands it to a builder thread,
which takes all that wait, builds, and tells each of them when a build that began after it was handed over has ended.
So loads that complete together share one build. One builder builds in this process, for loads that wait; the other
has a child process build, for loads that must not, and what others loaded while a load's own build ran.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.context import hydrated_context, serialize_context
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings

from lineage_orch.errors import (
    BuildFailedError,
    DbtError,
    LineageOrchError,
    SettingsError,
    TriggerError,
    UnknownSourceError,
)
from lineage_orch.loads.completion import Completion, Logger
from lineage_orch.loads.declaration import declared_sources
from lineage_orch.settings import LineageOrchSettings, handing_down
from lineage_orch.text import one_line

# Seconds that others, who wait for the lock with loads of their own, are given to take it before a process is started
# to build what is left: some times as long as they sleep between two looks.
OTHERS_FIRST = 3.0


class InProcessTrigger:
    """Build in this process, as the Prefect flow ``build_affected``.

    The build runs in a thread of its own, outside the load's timeout, concurrency lease and event loop, and the
    load waits until its own updates are built, held or failed, by it or by whoever builds already. What others loaded
    meanwhile they build themselves, or a process of its own does. Where waiting could harm the load (a timeout, a
    deployed run), or when the setting ``wait`` is off, the build is a process of its own, and this process ends after
    it.

    Args:
        settings: by default read from the environment and pyproject.toml, at each completed load.
        overrides: single settings to replace.

    Raises:
        SettingsError: a setting cannot be read.
    """

    def __init__(self, settings: LineageOrchSettings | None = None, **overrides: Any) -> None:
        self._settings = settings.with_overrides(**overrides) if settings else None
        self._overrides = {} if settings else overrides
        if overrides:
            LineageOrchSettings(**overrides)  # a wrong name is told where it is written

    @property
    def settings(self) -> LineageOrchSettings:
        """The settings of the builds."""
        return self._settings or LineageOrchSettings(**self._overrides)

    @property
    def project_name(self) -> str | None:
        """The name of the dbt project that is built; None where the settings lead to none from here."""
        from lineage_orch.dbt.project import DbtProject

        try:
            return DbtProject.find(self.settings).name
        except (SettingsError, DbtError):  # told when the load completes
            return None

    def fire(self, completion: Completion, logger: Logger) -> None:
        """Record the updates, and build what they affect.

        Raises:
            TriggerError: the packages that build are missing; or the updates could not be recorded, and the message
                says why, and what takes them up.
        """
        settings = self.settings
        _check_builder()
        _record(completion, settings)
        if completion.may_wait and settings.wait:
            build_and_wait(completion, settings, logger)
        else:
            build_in_a_process(completion, settings, logger)


@cache
def _check_builder() -> None:
    # What every build needs. dbt may be a process or dbt Cloud: that there is none is said when it is to run.
    if missing := [name for name in ("networkx", "filelock") if find_spec(name) is None]:
        raise TriggerError(
            f"building in this process needs {', '.join(missing)}, which is not installed here: pip install "
            "'lineage_orch[duckdb]' (or [dbt] and your adapter), or set LINEAGE_ORCH_DEPLOYMENT to the deployment "
            "that builds elsewhere"
        )


def _record(completion: Completion, settings: LineageOrchSettings) -> None:
    """Write the updates to the ledger: from then on no failure of dbt, of Prefect or of this process loses them.

    It needs the ledger, and of the dbt project the two files that name the ledger's scope, which can be read when the
    project does not parse.

    Raises:
        TriggerError: these cannot be read, or the ledger cannot be written.
    """
    from lineage_orch.orchestrator import Orchestrator

    try:
        with Orchestrator(settings) as orchestrator:
            try:
                orchestrator.record(completion.updates)
            except UnknownSourceError:
                # Kept as named, though the manifest does not know the source: the build says so. The ledger alone
                # decides whether it is recorded.
                given = {update.update_id for update in completion.updates}
                if orchestrator.ledger.known_updates(given) != given:
                    raise
    except LineageOrchError as error:
        # A load killed here, too, is found by its tags.
        raise TriggerError(
            f"this load is not in the ledger yet: {one_line(error).rstrip('.')}. `lineage-orch reconcile`, run in the "
            "dbt project, finds the load in Prefect's history and builds its models"
        ) from error


@dataclass(eq=False, repr=False)
class _Request:
    """What a hook asks of a builder. Requests of the same ``key`` may share a build."""

    completion: Completion
    settings: LineageOrchSettings
    prefect: Any
    logger: Logger
    done: Future[Any] = field(default_factory=Future)

    @property
    def key(self) -> tuple[LineageOrchSettings, Any]:
        return self.settings, self.prefect


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
                # A daemon: whoever asked waits for it, and after Ctrl-C nothing does.
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
    """Build, and return when what the load affects is built, held or failed.

    Raises:
        TriggerError: Prefect would not run the build.
    """
    # The builder's thread starts with an empty context: without this it would talk to another Prefect API than
    # the load does, when that was chosen by `temporary_settings` or a test harness.
    prefect = serialize_context()["settings_context"]
    try:
        report = _here.submit(_Request(completion, settings, prefect, logger)).result()
    except LineageOrchError as error:
        logger.error("The load is complete, but the build that it set off failed: %s", one_line(error))
        logger.debug("Where that was raised:", exc_info=True)
        if isinstance(error, BuildFailedError) and error.more:
            hand_over(settings, logger)
    except KeyboardInterrupt:
        logger.warning("The load is complete; its build was not waited for: what it does not build is still stale.")
        raise
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        raise TriggerError(
            f"Prefect would not run build_affected ({one_line(f'{type(error).__name__}: {error}')}). The load is in "
            "the ledger: the next build takes it up, and `lineage-orch build` does so now"
        ) from error
    else:
        logger.info("%s", report.summary())
        if report.more:
            hand_over(settings, logger)


def _build_here(batch: list[_Request]) -> Any:
    from lineage_orch.flows import build_affected

    with hydrated_context({"settings_context": batch[0].prefect}), handing_down(batch[0].settings):
        return build_affected(updates=_updates(batch), producers=_declared(batch))


_here = _Builder("lineage_orch-builder", _build_here)


# In a process of its own -------------------------------------------------------------------------------------


def build_in_a_process(completion: Completion, settings: LineageOrchSettings, logger: Logger) -> None:
    """Have a process of its own build, and return at once; this process waits for it before it ends."""
    _submit_beside(_Request(completion, settings, _environment(), logger))
    logger.info("The build goes on in a process of its own; this process ends after it.")


def hand_over(settings: LineageOrchSettings, logger: Logger) -> None:
    """See to it that what is stale gets built: by others who wait for the lock, else by a process of its own."""
    _submit_beside(_Request(Completion(()), settings, _environment(), logger))


def _submit_beside(request: _Request) -> None:
    if not _at_exit:
        # Registered now, when Prefect's client is at work: so it is run before the handler that stops this
        # process's own Prefect server.
        _at_exit.append(atexit.register(_beside.join))
    _beside.submit(request)


def others_go_on(settings: LineageOrchSettings) -> bool:
    """Wait a little; returns whether others have built what is due meanwhile, or are at it: they plan again when done.

    Who builds by hand does so only if something was left to it.

    Raises:
        LineageOrchError: the ledger cannot be read.
    """
    from lineage_orch.builds.by_hand import LEFT_TO_HOLDER
    from lineage_orch.orchestrator import Orchestrator

    since = datetime.now(UTC)
    time.sleep(OTHERS_FIRST)
    with Orchestrator(settings) as orchestrator:
        ledger = orchestrator.ledger
        while (holder := ledger.holder()) is not None and holder.since >= since:
            ledger.set_mark(LEFT_TO_HOLDER, uuid.uuid4().hex)
            if ledger.holder() == holder:  # so it had not let go, and has yet to look at the mark
                return True
        return orchestrator.seems_done()


def _build_beside(batch: list[_Request]) -> None:
    request = {
        "updates": _updates(batch),
        "producers": _declared(batch),
        "settings": batch[0].settings.dump(),
    }
    if not request["updates"]:
        try:
            if others_go_on(batch[0].settings):
                return
        except LineageOrchError as error:
            batch[0].logger.warning("Whether others build could not be asked: %s", one_line(error))
        batch[0].logger.info("What was loaded meanwhile is built in a process of its own; this process ends after it.")
    environment = {**batch[0].prefect, **batch[0].settings.tokens()}
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "lineage_orch.triggers.child"], stdin=subprocess.PIPE, env=environment
        )
        child.communicate(json.dumps(request).encode())
    except OSError as error:
        _log_failure(batch, f"could not be started ({error})")
        return
    # 0 and 1: its flow run has logged how it went.
    if child.returncode not in (0, 1):
        _log_failure(batch, f"ended with code {child.returncode}")


def _log_failure(batch: list[_Request], how: str) -> None:
    for request in batch:
        request.logger.error(
            "The load is complete, but the process that builds its models %s. The load is in the ledger: the next "
            "build takes it up, and `lineage-orch build` does so now",
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
