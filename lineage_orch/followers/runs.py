"""The runs of followers that one build starts, and those of builds before that still go on.

A follower without a deployment runs in a thread of this process, under a lock of its own, which is free when the
process dies. One with a deployment is launched there: the launch is in the ledger before Prefect is asked, under a key
by which Prefect makes one run of it however often it is asked, so that a kill in between neither loses it nor starts it
twice. Either way it is recorded, as a node that was built well, when its run ended Completed; until then it is stale.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import httpx
from prefect.context import SettingsContext
from prefect.exceptions import PrefectException
from prefect.flows import Flow

from lineage_orch.followers import deployments
from lineage_orch.followers.starts import Start
from lineage_orch.ledger import Launch, Ledger
from lineage_orch.lineage.followers import Follower
from lineage_orch.text import few, one_line

# How often one call runs a follower, while what it follows goes on to change: then the next call does.
MOST_RUNS = 3


_override: list[Callable[[Start], None]] = []


@contextmanager
def using_double(double: Callable[[Start], None]) -> Iterator[None]:
    """Within the block, no follower of this process runs: ``double`` is called instead, and it counts as Completed."""
    _override.append(double)
    try:
        yield
    finally:
        _override.remove(double)


class FollowerRuns:
    """The followers that one call of a build runs. None of them fails the build: what goes wrong is told and recorded.

    Args:
        clock: returns the time now (aware).
        progress: takes a line for people on each step; called in threads too.

    Attributes:
        started: those that were started, as often as they were.
        failed: each whose last run, as this call knows, did not end Completed -> why.
    """

    def __init__(
        self,
        ledger: Ledger,
        flow_of: Callable[[Follower], Flow[Any, Any]],
        *,
        clock: Callable[[], datetime],
        progress: Callable[[str], Any],
    ) -> None:
        self._ledger = ledger
        self._flow_of = flow_of
        self._clock = clock
        self._progress = progress
        # Threads begin with an empty context: without this they would talk to another Prefect API than the caller.
        settings = SettingsContext.get()
        self._context = None if settings is None else settings.serialize()
        self._mutex = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._left: set[str] = set()
        self.started: Counter[str] = Counter()
        self.failed: dict[str, str] = {}

    @property
    def going_on(self) -> frozenset[str]:
        """Those that this call does not start now: they run, here or in another process, or ran often enough."""
        with self._mutex:
            return frozenset((*self._threads, *self._left, *self.spent))

    @property
    def spent(self) -> frozenset[str]:
        """Those that this call has run so often that it leaves them to the next."""
        return frozenset(each for each, times in self.started.items() if times >= MOST_RUNS)

    def start(self, start: Start) -> None:
        """Start a follower, and return at once.

        Raises:
            LedgerError: the launch could not be recorded, and Prefect was not asked.
        """
        follower = start.follower
        self.started[follower.unique_id] += 1
        if _override:
            _override[-1](start)
            self._record_done(start, self._clock(), None)
            return
        if follower.deployment is not None:
            launch = Launch(
                follower.unique_id,
                start.tick,
                start.run_id,
                self._clock(),
                follower.deployment,
                start.sources,
                start.window,
            )
            self._ledger.add_launch(launch)
            run = partial(self._ask, launch)
        else:
            run = partial(self._run_alone, start)
        # A daemon: the caller waits for it, and after Ctrl-C nothing does.
        thread = threading.Thread(
            target=self._in_thread, args=(follower, run), name=f"lineage_orch-{follower.unique_id}", daemon=True
        )
        with self._mutex:
            self._threads[follower.unique_id] = thread
        thread.start()

    def join(self) -> None:
        """Wait for what runs here."""
        while True:
            with self._mutex:
                threads = list(self._threads.values())
            if not threads:
                return
            for thread in threads:
                thread.join()

    def _in_thread(self, follower: Follower, run: Callable[[], None]) -> None:
        try:
            with nullcontext() if self._context is None else SettingsContext(**self._context):
                run()
        except Exception as error:  # noqa: BLE001 - told: neither the build nor a load is harmed by a follower
            self._leave(
                follower.unique_id, f"The follower {follower.name} is left to the next build: {one_line(error)}"
            )
        finally:
            with self._mutex:
                del self._threads[follower.unique_id]

    def _leave(self, unique_id: str, why: str) -> None:
        with self._mutex:
            self._left.add(unique_id)
        self._progress(why)

    # Here -------------------------------------------------------------------------------------------------

    def _run_alone(self, start: Start) -> None:
        follower = start.follower
        with self._ledger.follower_lock(follower.unique_id) as held:
            if not held:
                self._leave(
                    follower.unique_id,
                    f"The follower {follower.name} runs in another process, which looks again when done.",
                )
                return
            last = self._ledger.snapshot(history_of=()).nodes.get(follower.unique_id)
            if last is None or last.tick < start.tick:
                self._run_here(start)

    def _run_here(self, start: Start) -> None:
        follower = start.follower
        self._progress(f"The follower {follower.name} runs{_for(start.sources)}.")
        begun = time.monotonic()
        why: str | None
        try:
            why = _run(self._flow_of(follower), start)
        except Exception as error:  # noqa: BLE001 - what went wrong is recorded, and told
            why = one_line(f"{type(error).__name__}: {error}")
        if why is None:
            self._record_done(start, self._clock(), time.monotonic() - begun)
        else:
            self._record_failed(start, why)

    # In a deployment --------------------------------------------------------------------------------------

    def _ask(self, launch: Launch) -> None:
        """Have Prefect make the run of a launch, unless it has."""
        try:
            run_id, name = deployments.create_run(launch)
        except deployments.NoDeploymentError as error:
            self._end(launch, str(error))
        except (httpx.HTTPError, PrefectException) as error:
            self._progress(
                f"{launch.follower} is not launched yet: Prefect's API failed ({one_line(error)}). The next build asks "
                "again."
            )
        else:
            self._ledger.add_launch(replace(launch, flow_run_id=run_id))
            self._progress(
                f"Run {name!r} of {launch.deployment} was launched for {launch.follower}{_for(launch.sources)}."
            )

    def look(self) -> None:
        """See what became of the runs that were launched; the build lock is held.

        Raises:
            LedgerError: the ledger cannot be read or written.
        """
        for launch in self._ledger.launches().values():
            if launch.follower in self._threads:
                continue
            if launch.flow_run_id is None:
                self._ask(launch)
                continue
            try:
                end = deployments.end_of(launch.flow_run_id, self._clock())
            except (httpx.HTTPError, PrefectException) as error:
                self._progress(f"What became of the run of {launch.follower} could not be asked: {one_line(error)}")
                continue
            if end is not None:
                self._end(launch, end.why, at=end.at, seconds=end.seconds)

    def _end(
        self, launch: Launch, why: str | None, *, at: datetime | None = None, seconds: float | None = None
    ) -> None:
        name = launch.follower.partition(".")[2]
        start = Start(Follower(launch.follower, name, ()), launch.tick, launch.run_id)
        try:
            if why is None:
                self._record_done(start, at or self._clock(), seconds)
            else:
                self._record_failed(start, why)
        finally:
            # Where it cannot be recorded since its run of builds is no more, it is stale, and launched anew.
            self._ledger.end_launch(launch.follower)

    # What came of it --------------------------------------------------------------------------------------

    def _record_done(self, start: Start, at: datetime, seconds: float | None) -> None:
        unique_id = start.follower.unique_id
        self.failed.pop(unique_id, None)
        took = {} if seconds is None else {unique_id: seconds}
        self._ledger.record_built(start.tick, [unique_id], built_at=at, seconds=took, run_id=start.run_id)
        self._progress(f"The follower {start.follower.name} is done.")

    def _record_failed(self, start: Start, why: str) -> None:
        unique_id = start.follower.unique_id
        self.failed[unique_id] = why
        self._progress(f"The follower {start.follower.name} failed: {why}. It is tried again later.")
        self._ledger.record_failed(start.tick, {unique_id: why}, failed_at=self._clock(), run_id=start.run_id)


def _run(flow: Flow[Any, Any], start: Start) -> str | None:
    """Run a flow here; returns None if it ended Completed, else why not."""
    causes: dict[str, Any] = {"sources": list(start.sources), "window": start.window and tuple(start.window)}
    takes = inspect.signature(flow.fn).parameters
    state: Any = flow(**{name: value for name, value in causes.items() if name in takes}, return_state=True)
    if inspect.isawaitable(state):

        async def waited() -> Any:
            return await state

        state = asyncio.run(waited())
    if state.is_completed():
        return None
    return one_line(f"its run ended {state.name}" + (f": {state.message}" if state.message else ""))


def _for(sources: Sequence[str]) -> str:
    return f", for the load of {few(sources)}" if sources else ""
