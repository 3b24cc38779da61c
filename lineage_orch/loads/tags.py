"""Tags of Prefect runs: what says of a load which sources it fills and whose build it sets off.

By them a load that completed is found again in Prefect's history when its completion hook never ran. Light: a
load's process imports it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client

from lineage_orch.errors import ProducerError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, TaskRun

# On runs of build_affected: all of a deployment; set off by a load; for the time when something held is due; such a
# one for the time when something is late, if nothing is loaded or built until then.
BUILDS = "lineage_orch:builds"
TRIGGERED = "lineage_orch:triggered"
WAKE_UP = "lineage_orch:wake-up"
DEADLINE = "lineage_orch:deadline"
# And, once such a run has built something, for which source, by the name behind it.
BUILT_FOR = "lineage_orch:for:"
# On runs of followers in deployments; and with the follower's unique_id behind it.
FOLLOWER = "lineage_orch:follower"
# On a dbt deployment: a setting that its runs may replace.
ALLOWS = "lineage_orch:allows:"
# On runs of a load whose sources were found unchanged: nothing to build, however the run is found.
NOTHING_NEW = "lineage_orch:nothing-new"

_TRIGGERS = "triggers:"
_IN_PROCESS = "in-process"
_SOURCE = "source:"
# Before both, on runs of a task: what stands in ``prefect.tags(...)`` around it, which may be those of a load's
# deployment, is on it too, and makes no load of it.
_OF_TASK = "task-"

# Prefect drops an event that names more than 100 things, tags among them, and with it the state of a task.
_MOST_TAGS = 25
# From so many sources on, several share a tag, as a JSON list of at most so many characters.
_MANY_SOURCES = 20
_LONGEST_TAG = 1000


def trigger_tag(deployment: str | None, project: str | None = None, *, of_task: bool = False) -> str:
    """Return the tag of loads that set off this deployment (``flow/name``), or a build in their own process.

    Args:
        deployment: ``flow/name``; None: they build in their own process.
        project: the name of the dbt project that they then build, so that two projects on one Prefect server are
            apart; None: not known where the load ran (its process found no dbt project), or a run of release 0.1.0.
        of_task: of the run of a task.
    """
    in_process = _IN_PROCESS if project is None else f"{_IN_PROCESS}:{project}"
    return _prefix(_TRIGGERS, of_task) + (deployment or in_process)


def _prefix(kind: str, of_task: bool) -> str:
    return _OF_TASK + kind if of_task else kind


def load_tags(sources: Iterable[str], deployment: str | None, project: str | None = None) -> list[str]:
    """Return the tags of a flow run that loads these sources, and sets off what :func:`trigger_tag` says.

    Raises:
        ProducerError: there are too many of them.
    """
    return [trigger_tag(deployment, project), *_source_tags(list(sources))]


def _source_tags(sources: list[str], *, of_task: bool = False) -> list[str]:
    prefix = _prefix(_SOURCE, of_task)
    if len(sources) <= _MANY_SOURCES:
        return [prefix + source for source in sources]
    packs: list[list[str]] = [[]]
    for source in sources:
        if packs[-1] and len(json.dumps([*packs[-1], source])) > _LONGEST_TAG:
            packs.append([])
        packs[-1].append(source)
    if len(packs) > _MOST_TAGS:
        raise ProducerError(
            f"{len(sources)} sources are too many for the tags of a run; name them together, as source_name.*"
        )
    return [prefix + json.dumps(pack) for pack in packs]


def sources_in(tags: Iterable[str], *, of_task: bool = False) -> list[str]:
    """Return the sources that the tags of a load's run name."""
    prefix = _prefix(_SOURCE, of_task)
    sources: list[str] = []
    for tag in tags:
        if tag.startswith(prefix):
            text = tag.removeprefix(prefix)
            try:
                sources += json.loads(text) if text.startswith("[") else [text]
            except ValueError:
                sources.append(text)  # a tag of others
    return sources


def tag_task_run(run: TaskRun, sources: Iterable[str]) -> None:
    """Have the tags of a task run that goes on name these sources, in place of those that they name; maybe none.

    Raises:
        ProducerError: there are too many of them.
    """
    tags = _source_tags(sorted(sources), of_task=True) or [NOTHING_NEW]
    ours = (_OF_TASK + _SOURCE, NOTHING_NEW)
    run.tags = [*(tag for tag in run.tags if not tag.startswith(ours)), *tags]


def add_tags(run: FlowRun, tags: Iterable[str]) -> None:
    """Add tags to a run, keeping those it has; asks nothing of the API if it has them all."""
    # The call replaces all tags.
    merged = list(dict.fromkeys([*run.tags, *tags]))
    if len(merged) == len(run.tags):
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, tags=merged)
    run.tags = merged
