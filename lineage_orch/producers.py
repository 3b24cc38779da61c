"""Which flow loads which source: ``@produces_source`` and ``mark_updated``.

Light on purpose: the image of a load has Prefect and this package, and no dbt.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import string
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.flows import Flow
from prefect.tasks import Task

from lineage_orch.errors import LineageOrchError, ProducerError
from lineage_orch.loads.tags import TaggingHook, tag_nothing_new, tag_task_run
from lineage_orch.updates import SourceUpdate

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

    from lineage_orch.triggers import Completion, Trigger

Producer = TypeVar("Producer", bound="Flow[Any, Any] | Task[Any, Any]")

_RIGHT_ORDER = """write

    @produces_source("source_name.table")
    @flow
    def load(): ...
"""

# The sources that runs in progress were narrowed to, by run id.
_marked: dict[str, set[str]] = {}
_marking = threading.Lock()
# Every source that a producer of this process declares, templates left out: known before the first load.
_declared: dict[str, str] = {}


def produces_source(
    *sources: str, trigger: Trigger | None = None, shared: bool = False
) -> Callable[[Producer], Producer]:
    """Declare which dbt sources a flow or task loads; stands above ``@flow`` or ``@task``.

    When a run of it ends Completed, the models that hang on these sources are built: in this process, or by
    the deployment that the setting ``deployment`` names. The flow or task itself is returned.

    Args:
        sources: ``source_name.table``, ``package.source_name.table``, a unique_id, or ``source_name.*`` for all
            tables. A name may hold parameters of the run: ``"crm.{table}"``.
        trigger: what a completed run sets off; by default what the settings say.
        shared: other producers load these sources too, and that is meant; `lineage-orch check` then says nothing.

    Raises:
        ProducerError: it stands below ``@flow``, or on a plain function, or names no source, or a name holds a
            parameter that the function does not have.
    """
    _check_names(sources)

    def decorate(producer: Producer) -> Producer:
        if not isinstance(producer, Flow | Task):
            what = getattr(producer, "__name__", None) or repr(producer)
            raise ProducerError(
                f"@produces_source stands above @flow or @task, and {what!r} is neither yet; {_RIGHT_ORDER}"
            )
        _check_parameters(producer, sources)
        declared: list[str] = list(sources)
        chosen, is_shared = trigger, shared
        hooks: list[Any] = []
        for hook in producer.on_completion_hooks:
            if isinstance(hook, ProducerHook):  # decorated twice: one hook for both
                declared = [*hook.sources, *declared]
                chosen = chosen or hook.trigger
                is_shared = is_shared or hook.shared
            else:
                hooks.append(hook)
        ours = ProducerHook(tuple(dict.fromkeys(declared)), chosen, shared=is_shared)
        # A new list: Prefect shares the old one with the caller and with copies made by `with_options`.
        producer.on_completion_hooks = [*hooks, ours]
        running: list[Any] = [hook for hook in producer.on_running_hooks if not isinstance(hook, TaggingHook)]
        producer.on_running_hooks = [*running, TaggingHook(ours)]
        for source in ours.sources:
            if "{" not in source:
                _declared.setdefault(source, producer.name)
        return producer

    return decorate


def declared_sources() -> tuple[str, ...]:
    """Return the sources that the producers imported in this process declare, as they were written."""
    return tuple(_declared)


def producer_hook(producer: object) -> ProducerHook | None:
    """Return the hook that ``@produces_source`` left on a flow or task, or None if it has none."""
    hooks = getattr(producer, "on_completion_hooks", ())
    return next((hook for hook in hooks if isinstance(hook, ProducerHook)), None)


def mark_updated(*sources: str) -> None:
    """Inside a run of a producer: only these, of the declared sources, got new data; none means nothing did.

    Calls add up. The run that counts is the nearest one whose flow or task is a producer, so that a task may
    mark for the flow that called it (in the same process).

    Raises:
        ProducerError: outside a run of a producer, or for a source that it does not declare.
    """
    run, hook, parameters = _producing_run()
    declared = hook.filled(parameters)
    for source in sources:
        if not any(_covers(each, source) for each in declared):
            raise ProducerError(
                f"mark_updated({source!r}): this producer declares {', '.join(map(repr, declared))}; "
                "add the source to its @produces_source"
            )
    with _marking:
        marked = _marked.setdefault(str(run.id), set())
        marked.update(sources)
        if isinstance(run, TaskRun):
            with suppress(ProducerError):  # so many that its tags go on to name all that it declares
                tag_task_run(run, marked)


def marked_in(run: FlowRun | TaskRun) -> frozenset[str] | None:
    """Return the sources that a run in progress was narrowed to, or None if it was not."""
    marked = _marked.get(str(run.id))
    return None if marked is None else frozenset(marked)


def _producing_run() -> tuple[FlowRun | TaskRun, ProducerHook, Mapping[str, Any]]:
    task = TaskRunContext.get()
    if task is not None and (hook := _declaration(task.task)) is not None:
        return task.task_run, hook, task.parameters
    for context in flow_contexts():
        if context.flow is not None and context.flow_run is not None:
            hook = _declaration(context.flow)
            if hook is not None:
                return context.flow_run, hook, _with_defaults(context.flow, context.parameters or {})
    raise ProducerError("mark_updated was called outside a run of a flow or task with @produces_source")


def _declaration(producer: Flow[Any, Any] | Task[Any, Any]) -> ProducerHook | None:
    """Return what a producer declares, also when ``with_options(on_completion=[...])`` dropped its hook."""
    tagging = (hook.producer for hook in producer.on_running_hooks if isinstance(hook, TaggingHook))
    return producer_hook(producer) or next(tagging, None)


def flow_contexts() -> Iterable[FlowRunContext]:
    """Yield the contexts of the flow runs around the caller, innermost first.

    Prefect keeps only the innermost at hand; the one around it is what its context variable held before.
    """
    context = FlowRunContext.get()
    while isinstance(context, FlowRunContext):
        yield context
        token = getattr(context, "_token", None)
        context = getattr(token, "old_value", None)


class ProducerHook:
    """The on_completion hook of a producer. What we know of it lives here, for `with_options` copies no more."""

    __name__ = "lineage_orch"

    def __init__(self, sources: tuple[str, ...], trigger: Trigger | None = None, *, shared: bool = False) -> None:
        self.sources = sources
        self.trigger = trigger
        self.shared = shared

    def __repr__(self) -> str:
        return f"produces_source({', '.join(map(repr, self.sources))})"

    def __call__(self, producer: Flow[Any, Any] | Task[Any, Any], run: FlowRun | TaskRun, state: State[Any]) -> Any:
        """Run as a completion hook: awaited by Prefect when the producer is async, so its loop stays free."""
        # A task's parameters are known to nobody but the engine that calls this hook.
        parameters = _engine_parameters(sys._getframe(1), producer, run)
        if producer.isasync:
            return self._fire_async(producer, run, state, parameters)
        self._fire(producer, run, state, parameters)
        return None

    def filled(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the declared sources with the parameters of a run filled in."""
        return tuple(_fill(source, parameters) for source in self.sources)

    def _completion(
        self,
        producer: Flow[Any, Any] | Task[Any, Any],
        run: FlowRun | TaskRun,
        state: State[Any],
        parameters: Mapping[str, Any],
    ) -> Completion | None:
        from lineage_orch.triggers import Completion

        declared = self.filled(parameters)
        marked = _marked.pop(str(run.id), None)
        updated = declared if marked is None else tuple(sorted(marked))
        flow_run_id = run.id if isinstance(producer, Flow) else getattr(run, "flow_run_id", None)
        loaded_at = state.timestamp or datetime.now(UTC)
        updates = tuple(
            SourceUpdate(
                source,
                # The state's own id: a parent's retry may fire the hook of a persisted child twice.
                update_id=str(state.id),
                loaded_at=loaded_at,
                flow_run_id=None if flow_run_id is None else str(flow_run_id),
                producer=producer.name,
            )
            for source in dict.fromkeys(updated)
        )
        return Completion(updates, declared, may_wait=_may_wait()) if updates else None

    def _fire(
        self,
        producer: Flow[Any, Any] | Task[Any, Any],
        run: FlowRun | TaskRun,
        state: State[Any],
        parameters: Mapping[str, Any],
    ) -> None:
        if not _counts(state):
            return
        logger = _logger(producer, run)
        try:
            completion = self._completion(producer, run, state, parameters)
            if completion is None:
                logger.info("No source got new data in this run, so nothing is built.")
                if isinstance(producer, Flow):
                    tag_nothing_new(cast("FlowRun", run))
                return
            self._trigger().fire(completion, logger)
        except LineageOrchError as error:
            logger.error("The load is complete, but its models were not built: %s", error)
        except Exception:
            # A failing hook never fails the user's load, and is never silent.
            logger.exception(
                "The load is complete, but setting off the build of its models failed in a way nobody foresaw; "
                "build them with `lineage-orch build`, and report this as a bug"
            )

    async def _fire_async(
        self,
        producer: Flow[Any, Any] | Task[Any, Any],
        run: FlowRun | TaskRun,
        state: State[Any],
        parameters: Mapping[str, Any],
    ) -> None:
        # A thread of our own, not one of the loop's: those are few, and a load's own `asyncio.to_thread` must not
        # wait for a build. And the loop would wait for its threads before it closes, even after Ctrl-C.
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # whoever stops waiting for it does not stop it
        context = contextvars.copy_context()

        def fire() -> None:
            try:
                context.run(self._fire, producer, run, state, parameters)
            except BaseException as error:  # noqa: BLE001 - handed to the hook, which waits for it
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=fire, name="lineage_orch-hook", daemon=True).start()
        await asyncio.wrap_future(done)

    def _trigger(self) -> Trigger:
        from lineage_orch.triggers import choose_trigger

        return choose_trigger(self.trigger)


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


def _logger(producer: Flow[Any, Any] | Task[Any, Any], run: FlowRun | TaskRun) -> Any:
    from prefect.logging.loggers import flow_run_logger, task_run_logger

    if isinstance(producer, Flow):
        return flow_run_logger(run, producer)  # type: ignore[arg-type]
    return task_run_logger(run, producer)  # type: ignore[arg-type]


# Parameters in names ----------------------------------------------------------------------------------------


def _check_names(sources: tuple[Any, ...]) -> None:
    if not sources:
        raise ProducerError(f"@produces_source names no source; {_RIGHT_ORDER}")
    for source in sources:
        if not isinstance(source, str):
            raise ProducerError(f"@produces_source takes the names of sources, not {source!r}; {_RIGHT_ORDER}")
        if "." not in source and "{" not in source:
            raise ProducerError(
                f"{source!r} is no source; a source is named source_name.table (or source_name.* for all tables)"
            )


def _fields(source: str) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(source) if name is not None]
    except ValueError as error:
        raise ProducerError(f"the source {source!r} cannot be read: {error}") from None


def _check_parameters(producer: Flow[Any, Any] | Task[Any, Any], sources: Iterable[str]) -> None:
    known = inspect.signature(producer.fn).parameters
    for source in sources:
        for name in _fields(source):
            if name not in known:
                raise ProducerError(
                    f"the source {source!r} holds {{{name}}}, and {producer.name!r} has no parameter of that name; "
                    f"it has: {', '.join(known) or 'none'}"
                )


def _fill(source: str, parameters: Mapping[str, Any]) -> str:
    values = {}
    for name in _fields(source):
        if name not in parameters:
            raise ProducerError(
                f"the source {source!r} holds {{{name}}}, and the run's value of it is not known here; "
                "name the source with mark_updated(...) inside the run"
            )
        value = parameters[name]
        values[name] = getattr(value, "value", value)  # an Enum stands for its value
    return source.format(**values) if values else source


def _engine_parameters(
    frame: Any, producer: Flow[Any, Any] | Task[Any, Any], run: FlowRun | TaskRun
) -> Mapping[str, Any]:
    """Return the parameters of the run whose hook is called now.

    A flow's are in its context. A task's context is gone by then, and the task run does not record them; the
    engine that calls the hook (``frame``) still holds them.
    """
    context = FlowRunContext.get()
    if isinstance(producer, Flow):
        if context is not None and context.flow_run is not None and context.flow_run.id == run.id:
            return _with_defaults(producer, context.parameters or {})
        return _with_defaults(producer, getattr(run, "parameters", None) or {})
    engine = frame.f_locals.get("self")
    return _with_defaults(producer, getattr(engine, "parameters", None) or {})


def _with_defaults(producer: Flow[Any, Any] | Task[Any, Any], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    defaults = {
        name: each.default
        for name, each in inspect.signature(producer.fn).parameters.items()
        if each.default is not inspect.Parameter.empty
    }
    return {**defaults, **parameters}


def _covers(declared: str, marked: str) -> bool:
    """Whether a marked name is one of the declared, however much of the full name each of them spells."""
    declared, marked = declared.removeprefix("source."), marked.removeprefix("source.")
    if "." not in marked:
        return False
    if declared.endswith(".*"):
        return any(_same(declared[:-2], marked[:dot]) for dot, each in enumerate(marked) if each == ".")
    return _same(declared, marked)


def _same(one: str, other: str) -> bool:
    """Whether one name is the other, with or without its package in front."""
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")
