"""The hooks of a producer: what Prefect calls when its run begins, and when it completed."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, TaskRunContext
from prefect.flows import Flow
from prefect.futures import PrefectFuture
from prefect.tasks import Task

from lineage_orch.errors import LineageOrchError, ProducerError
from lineage_orch.loads.compat import flow_contexts
from lineage_orch.loads.completion import Completion, Logger, Trigger
from lineage_orch.loads.declaration import Declaration
from lineage_orch.loads.marks import Mark, marked_in, take_marks
from lineage_orch.loads.tags import NOTHING_NEW, add_tags, load_tags, tag_task_run, trigger_tag
from lineage_orch.text import one_line
from lineage_orch.triggers.choice import choose_trigger
from lineage_orch.updates import SourceUpdate, Window

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, TaskRun

    AnyRun = FlowRun | TaskRun

AnyProducer = Flow[Any, Any] | Task[Any, Any]


class ProducerHook:
    """The on_completion hook of a producer. What we know of it lives here, for `with_options` copies no more.

    Args:
        declaration: what the producer loads.
        trigger: what its completed runs set off; None: what the settings say.
    """

    __name__ = "lineage_orch"

    def __init__(self, declaration: Declaration, trigger: Trigger | None = None) -> None:
        self.declaration = declaration
        self.trigger = trigger

    def __repr__(self) -> str:
        return f"produces_source({', '.join(map(repr, self.declaration.sources))})"

    def __call__(self, producer: AnyProducer, run: AnyRun, state: State[Any]) -> Any:
        """Run as a completion hook: awaited by Prefect when the producer is async, so its loop stays free."""
        if producer.isasync:
            return self._fire_async(producer, run, state)
        self._fire(producer, run, state)
        return None

    def chosen_trigger(self) -> Trigger:
        """Return what a run that completes now sets off.

        Raises:
            SettingsError: a setting cannot be read.
        """
        return choose_trigger(self.trigger)

    def _completion(self, producer: AnyProducer, run: AnyRun, state: State[Any]) -> Completion | None:
        parameters = run_parameters(producer, run, self.declaration)
        declared = self.declaration.filled(parameters)
        window = self._window(parameters, _logger(producer, run))
        marked = take_marks(run.id, window)
        updated = dict.fromkeys(declared, Mark(window=window)) if marked is None else marked
        flow_run_id = run.id if isinstance(producer, Flow) else getattr(run, "flow_run_id", None)
        loaded_at = state.timestamp or datetime.now(UTC)
        began_at = _began_at(run)
        updates = tuple(
            SourceUpdate(
                source,
                # The state's own id: a parent's retry may fire the hook of a persisted child twice.
                update_id=str(state.id),
                loaded_at=loaded_at,
                flow_run_id=None if flow_run_id is None else str(flow_run_id),
                producer=producer.name,
                fingerprint=mark.fingerprint,
                began_at=began_at,
                window_start=mark.window.start if mark.window else None,
                window_end=mark.window.end if mark.window else None,
            )
            for source, mark in updated.items()
        )
        # The templates too, as written: this producer loads more than the sources of this one run.
        known = tuple(dict.fromkeys([*declared, *self.declaration.sources]))
        return Completion(updates, known, may_wait=_may_wait()) if updates else None

    def _window(self, parameters: Mapping[str, Any], logger: Logger) -> Window | None:
        try:
            return self.declaration.window_in(parameters)
        except ProducerError as error:
            # The load is complete, and without a window it counts for all that it may have touched.
            logger.warning("The load counts without a window: %s", error)
            return None

    def _fire(self, producer: AnyProducer, run: AnyRun, state: State[Any]) -> None:
        if not _counts(state):
            return
        logger = _logger(producer, run)
        try:
            completion = self._completion(producer, run, state)
            if completion is None:
                logger.info("No source got new data in this run, so nothing is built.")
                if isinstance(producer, Flow):
                    add_tags(cast("FlowRun", run), [NOTHING_NEW])  # so that reconcile passes it over
                return
            self.chosen_trigger().fire(completion, logger)
        except LineageOrchError as error:
            logger.error("The load is complete, but its models were not built: %s", one_line(error))
            logger.debug("Where that was raised:", exc_info=True)
        except Exception:
            # A failing hook never fails the user's load, and is never silent.
            logger.exception(
                "The load is complete, but setting off the build of its models failed with an unexpected error; "
                "build them with `lineage-orch reconcile`, and report this as a bug"
            )

    async def _fire_async(self, producer: AnyProducer, run: AnyRun, state: State[Any]) -> None:
        # A thread of our own, not one of the loop's: those are few, and a load's own `asyncio.to_thread` must not
        # wait for a build. And the loop would wait for its threads before it closes, even after Ctrl-C.
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # whoever stops waiting for it does not stop it
        context = contextvars.copy_context()

        def fire() -> None:
            try:
                context.run(self._fire, producer, run, state)
            except BaseException as error:  # noqa: BLE001 - handed to the hook, which waits for it
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=fire, name="lineage_orch-hook", daemon=True).start()
        await asyncio.wrap_future(done)


class TaggingHook:
    """The on_running hook of a producer: tags the run with its sources.

    For a flow it is one HTTP call, and none if the run has the tags. For a task it is none: the state that ends a
    task run takes its tags along to the server.
    """

    __name__ = "lineage_orch_tags"

    def __init__(self, completion_hook: ProducerHook) -> None:
        self._completion_hook = completion_hook

    @property
    def declaration(self) -> Declaration:
        """What the producer loads."""
        return self._completion_hook.declaration

    def __call__(self, producer: AnyProducer, run: AnyRun, state: State[Any]) -> Any:
        """Tag the run; awaited by Prefect when it is of an async flow, so that its loop stays free."""
        if isinstance(producer, Flow) and producer.isasync:
            return asyncio.to_thread(self._tag, producer, run)
        self._tag(producer, run)
        return None

    def _tag(self, producer: AnyProducer, run: AnyRun) -> None:
        try:
            trigger = self._completion_hook.chosen_trigger()
            sources = self.declaration.filled(run_parameters(producer, run, self.declaration))
            if isinstance(producer, Flow):
                add_tags(cast("FlowRun", run), load_tags(sources, **sets_off(trigger)))
            else:
                marked = marked_in(run.id)  # before a retry
                tag_task_run(cast("TaskRun", run), sources if marked is None else marked)
                run.tags = list(dict.fromkeys([*run.tags, trigger_tag(**sets_off(trigger), of_task=True)]))
        except Exception as error:  # noqa: BLE001 - a load is never harmed by what only helps to find it again
            logger = _logger(producer, run)
            logger.debug(
                "This run could not be tagged with its sources (%s): if it is killed before its completion hook, "
                "reconcile will not find it.",
                error,
            )


def producer_hook(producer: object) -> ProducerHook | None:
    """Return the hook that ``@produces_source`` left on a flow or task, or None if it has none."""
    hooks = getattr(producer, "on_completion_hooks", ())
    return next((hook for hook in hooks if isinstance(hook, ProducerHook)), None)


def sets_off(trigger: Trigger) -> dict[str, str | None]:
    """Return what the tags say of a trigger: the ``deployment`` it launches, or the dbt ``project`` it builds."""
    return {"deployment": getattr(trigger, "deployment", None), "project": getattr(trigger, "project_name", None)}


def run_parameters(producer: AnyProducer, run: AnyRun, declaration: Declaration) -> Mapping[str, Any]:
    """Return the parameters of the run whose hook is called now, as far as its declaration needs them."""
    if not declaration.needs_parameters:
        return {}
    if isinstance(producer, Flow):
        flow = FlowRunContext.get()
        if flow is not None and flow.flow_run is not None and flow.flow_run.id == run.id:
            return with_defaults(producer, flow.parameters or {})
        return with_defaults(producer, getattr(run, "parameters", None) or {})
    task = TaskRunContext.get()
    if task is not None and task.task_run.id == run.id:
        return with_defaults(producer, {name: _resolved(value) for name, value in task.parameters.items()})
    # A task run records no parameters. What a template holds is then not known, and said so where it is filled.
    return {}


def _resolved(value: Any) -> Any:
    """Return what a task waited for: in the context of its hooks a future is still one, and done."""
    return value.result() if isinstance(value, PrefectFuture | State) else value


def with_defaults(producer: AnyProducer, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return parameters, and the defaults of those that were not given."""
    defaults = {
        name: each.default
        for name, each in inspect.signature(producer.fn).parameters.items()
        if each.default is not inspect.Parameter.empty
    }
    return {**defaults, **parameters}


def _began_at(run: AnyRun) -> datetime | None:
    """Return when a run began to run; of a flow run its context says so, for the run was read before that."""
    if run.start_time is not None:
        return run.start_time
    context = FlowRunContext.get()
    is_its = context is not None and context.flow_run is not None and context.flow_run.id == run.id
    return context.start_time if context is not None and is_its else None


def _counts(state: State[Any]) -> bool:
    return state.is_completed() and state.name != "Cached"


def _may_wait() -> bool:
    """Whether the hook may wait for the build.

    Not under a timeout, nor in a deployed run: the timeout of a flow covers its hooks, and the concurrency
    lease of a deployment ends at Completed, after which Prefect cancels whatever still runs.
    """
    innermost = None
    for context in flow_contexts():
        innermost = context
        flow_run = context.flow_run
        if context.flow is not None and context.flow.timeout_seconds:
            return False
        if flow_run is not None and flow_run.deployment_id is not None:
            return False
    if innermost is None:
        return True
    # A subflow whose parent cannot be seen from here may well be under its timeout.
    outermost = innermost.flow_run
    return outermost is None or outermost.parent_task_run_id is None


def _logger(producer: AnyProducer, run: AnyRun) -> Logger:
    from prefect.logging.loggers import flow_run_logger, task_run_logger

    if isinstance(producer, Flow):
        return flow_run_logger(run, producer)  # type: ignore[arg-type]
    return task_run_logger(run, producer)  # type: ignore[arg-type]
