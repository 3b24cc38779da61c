"""``@follows``: a flow that runs when dbt models are fresh. What it declares, and who declared it in this process.

Light: the image of such a flow has Prefect and this package, and no dbt; and a plan, which reads what is declared here,
needs no Prefect.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lineage_orch.errors import ProducerError
from lineage_orch.loads.declaration import restored

if TYPE_CHECKING:
    from prefect.flows import Flow

FollowerFlow = TypeVar("FollowerFlow", bound="Flow[Any, Any]")

# On the function of the flow, which copies of the flow (`with_options`) share.
_ATTRIBUTE = "__lineage_orch_follows__"
_RIGHT = """write

    @follows("mart_sales")
    @flow
    def push(): ...
"""


@dataclass(frozen=True, slots=True)
class Following:
    """What ``@follows`` says of a flow, as written.

    Attributes:
        name: Prefect's name of the flow.
        follows: names of models, snapshots, seeds and sources.
        deployment: ``flow/name`` that runs it; None: the process that builds.
        updates_on: ``any`` or ``all`` of them must be fresh.
        build_after: the least time since its last Completed run.
        lag_tolerance: the least time since data for it began to wait.
        where: ``file:line`` of the function.
        takes_window: whether the flow has a parameter ``window``.
    """

    name: str
    follows: tuple[str, ...]
    deployment: str | None = None
    updates_on: str = "any"
    build_after: timedelta | str | None = None
    lag_tolerance: timedelta | str | None = None
    where: str = ""
    takes_window: bool = False


def follows(
    *models: str,
    deployment: str | None = None,
    updates_on: Literal["any", "all"] = "any",
    build_after: timedelta | str | None = None,
    lag_tolerance: timedelta | str | None = None,
) -> Callable[[FollowerFlow], FollowerFlow]:
    """Have a flow run each time these models are fresh; stands above ``@flow``. The flow itself is returned.

    It starts as soon as what it follows is built and its tests have passed, without waiting for the rest of the build;
    once for all that came until then, and once more for what comes while it runs. It counts as done when a run of it
    ends Completed. A parameter ``sources`` of the flow is given the names of the sources whose loads caused the run; a
    parameter ``window`` the event times in which all that is new for it lies, two aware datetimes, half open, or None.

    Args:
        models: names of models, snapshots, seeds, or sources.
        deployment: ``flow/name`` of the Prefect deployment that runs it; by default it runs in the process that builds.
        updates_on: ``any``: it runs when one of them is new; ``all``: when all are that move.
        build_after: not before its last Completed run and this: ``"6h"``, or a timedelta.
        lag_tolerance: not before new data has waited so long.

    Raises:
        ProducerError: it stands below ``@flow``, or names no model, or a deployment without its flow.
    """
    if not models or not all(isinstance(each, str) and each for each in models):
        raise ProducerError(f"@follows takes the names of models, got {models!r}; {_RIGHT}")
    if deployment is not None and "/" not in deployment:
        raise ProducerError(f"the deployment {deployment!r} of @follows has no flow name; write it as flow/name")
    if updates_on not in ("any", "all"):
        raise ProducerError(f"updates_on of @follows is {updates_on!r}; it must be any or all")

    def decorate(flow: FollowerFlow) -> FollowerFlow:
        from prefect.flows import Flow

        if not isinstance(flow, Flow):
            what = getattr(flow, "__name__", None) or repr(flow)
            raise ProducerError(f"@follows stands above @flow, and {what!r} is no flow; {_RIGHT}")
        code = getattr(inspect.unwrap(flow.fn), "__code__", None)
        where = f"{code.co_filename}:{code.co_firstlineno}" if code else ""
        names = tuple(dict.fromkeys(models))
        takes_window = "window" in inspect.signature(flow.fn).parameters
        declared = Following(flow.name, names, deployment, updates_on, build_after, lag_tolerance, where, takes_window)
        setattr(flow.fn, _ATTRIBUTE, declared)
        _declared[flow.name] = flow
        return flow

    return decorate


def following_of(flow: object) -> Following | None:
    """Return what ``@follows`` declared of a flow, or None if it does not stand above it."""
    found = getattr(getattr(flow, "fn", None), _ATTRIBUTE, None)
    return found if isinstance(found, Following) else None


# The followers of this process -------------------------------------------------------------------------------------

_declared: dict[str, Flow[Any, Any]] = {}


def declared_followers() -> Mapping[str, Flow[Any, Any]]:
    """Return the flows with ``@follows`` that were imported in this process, by Prefect's name of them."""
    return dict(_declared)


def followers_declared_meanwhile_forgotten() -> AbstractContextManager[None]:
    """Within the block, followers are declared as ever; after it, those that are known are what they were before."""
    return restored(_declared)
