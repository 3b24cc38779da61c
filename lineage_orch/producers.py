"""Which flow loads which source: ``@produces_source`` and ``mark_updated``.

Light on purpose: the image of a load has Prefect and this package, and no dbt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.flows import Flow
from prefect.tasks import Task

from lineage_orch.errors import ProducerError
from lineage_orch.loads.compat import flow_contexts
from lineage_orch.loads.completion import Trigger
from lineage_orch.loads.declaration import RIGHT_ORDER, Declaration, covers, declaration_of, register
from lineage_orch.loads.marks import mark
from lineage_orch.loads.tags import tag_task_run
from lineage_orch.triggers.hook import ProducerHook, TaggingHook, with_defaults
from lineage_orch.updates import Window

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

Producer = TypeVar("Producer", bound="Flow[Any, Any] | Task[Any, Any]")


def produces_source(
    *sources: str, trigger: Trigger | None = None, shared: bool = False, window: tuple[str, str] | None = None
) -> Callable[[Producer], Producer]:
    """Declare which dbt sources a flow or task loads; stands above ``@flow`` or ``@task``.

    When a run of it ends Completed, the models downstream of these sources are built: in this process, or by
    the deployment that the setting ``deployment`` names. The flow or task itself is returned.

    Args:
        sources: ``source_name.table``, ``package.source_name.table``, a unique_id, or ``source_name.*`` for all
            tables. A name may hold parameters of the run: ``"crm.{table}"``.
        trigger: what a completed run sets off; by default what the settings say.
        shared: other producers load these sources too, and that is meant; `lineage-orch check` then says nothing.
        window: the names of two parameters of the run, such as ``("start", "end")``: all that it loads lies in the
            event times between them (half open), so that of microbatch models only these batches are built. A date is
            its first moment, a time without a time zone is UTC; where one of them is None, no window is known.

    Raises:
        ProducerError: it stands below ``@flow``, or on a plain function, or names no source, or a name or the window
            holds a parameter that the function does not have.
    """
    declaration = Declaration.of(*sources, shared=shared, window=window)

    def decorate(producer: Producer) -> Producer:
        if not isinstance(producer, Flow | Task):
            what = getattr(producer, "__name__", None) or repr(producer)
            raise ProducerError(
                f"@produces_source stands above @flow or @task, and {what!r} is neither yet; {RIGHT_ORDER}"
            )
        declaration.check_parameters(producer.name, inspect.signature(producer.fn).parameters)
        declared, chosen = declaration, trigger
        hooks: list[Any] = []
        for hook in producer.on_completion_hooks:
            if isinstance(hook, ProducerHook):  # decorated twice: one hook for both
                declared = hook.declaration | declared
                chosen = chosen or hook.trigger
            else:
                hooks.append(hook)
        ours = ProducerHook(declared, chosen)
        # A new list: Prefect shares the old one with the caller and with copies made by `with_options`.
        producer.on_completion_hooks = [*hooks, ours]
        running: list[Any] = [hook for hook in producer.on_running_hooks if not isinstance(hook, TaggingHook)]
        producer.on_running_hooks = [*running, TaggingHook(ours)]
        register(declared, producer.name)
        return producer

    return decorate


def mark_updated(
    *sources: str, fingerprint: str | None = None, window: tuple[datetime, datetime] | None = None
) -> None:
    """Inside a run of a producer: only these, of the declared sources, got new data; none means nothing did.

    Calls add up. The run that counts is the nearest one whose flow or task is a producer, so that a task may
    mark for the flow that called it (in the same process).

    Args:
        sources: Names, of those that the producer declares.
        fingerprint: Of what now stands in these tables: an ETag, a version, what :func:`fingerprint_of` returns. If it
            is that of the last load of a source, nothing is built for it. None, or empty: the load counts as new, and
            so does one during which something was built, which may have read the half of it. A source that is marked
            several times in a run was loaded in parts, in this order.
        window: The event times (aware, half open) in which all that is new in these tables lies, also what was changed
            or deleted: of the microbatch models below them, only these batches are built. By default what
            ``@produces_source(..., window=...)`` says, if it does; without a window, dbt says which batches.

    Raises:
        ProducerError: outside a run of a producer, or for a source that it does not declare; or a fingerprint that is
            no text, a window that is none, or one of them of no source.
    """
    if fingerprint is not None and not isinstance(fingerprint, str):
        raise ProducerError(
            f"mark_updated takes a fingerprint as text, got {fingerprint!r}; lineage_orch.fingerprint_of(...) makes "
            "one of files, rows and values"
        )
    if fingerprint and not sources:
        raise ProducerError("mark_updated got a fingerprint and no source; name the source that it is of")
    loaded = None if window is None else _window(window)
    if loaded is not None and not sources:
        raise ProducerError("mark_updated got a window and no source; name the source that it is of")
    run, declaration, parameters = _producing_run()
    declared = declaration.filled(parameters)
    for source in sources:
        if not any(covers(each, source) for each in declared):
            raise ProducerError(
                f"mark_updated({source!r}): this producer declares {', '.join(map(repr, declared))}; "
                "add the source to its @produces_source"
            )
    marked = mark(run.id, sources, fingerprint or None, loaded)
    if isinstance(run, TaskRun):
        with suppress(ProducerError):  # so many that its tags go on to name all that it declares
            tag_task_run(run, marked)


def _window(given: tuple[datetime, datetime]) -> Window:
    try:
        start, end = given
        return Window.of(start, end)
    except (TypeError, ValueError, AttributeError) as error:
        raise ProducerError(
            f"mark_updated takes a window as two times, (start, end), got {given!r}: {error}; write "
            "window=(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))"
        ) from None


def _producing_run() -> tuple[FlowRun | TaskRun, Declaration, Mapping[str, Any]]:
    task = TaskRunContext.get()
    if task is not None and (declaration := declaration_of(task.task)) is not None:
        return task.task_run, declaration, task.parameters
    for context in flow_contexts():
        if context.flow is not None and context.flow_run is not None:
            declaration = declaration_of(context.flow)
            if declaration is not None:
                return context.flow_run, declaration, with_defaults(context.flow, context.parameters or {})
    raise ProducerError("mark_updated was called outside a run of a flow or task with @produces_source")
