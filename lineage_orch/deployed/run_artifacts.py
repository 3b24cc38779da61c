"""What a run of ``build_affected`` leaves: artifacts of what it did and of loads, and tags with its sources."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.utilities.urls import url_for

from lineage_orch.loads.completion import Logger
from lineage_orch.loads.tags import BUILT_FOR
from lineage_orch.reports.markdown import account_markdown, escaped, load_rows
from lineage_orch.reports.status import short_names
from lineage_orch.text import one_line

if TYPE_CHECKING:
    from datetime import datetime

    from lineage_orch.orchestrator import Orchestrator
    from lineage_orch.reports.account import Account

# A build is done: so many seconds each call of Prefect's API may take, and none is tried again.
_PATIENCE = 10.0
# Of so many sources a run shows the last loads, and of each so many.
_MOST_SOURCES = 50
_LAST_LOADS = 20
# Prefect drops an event that names more than 100 things, tags among them.
_MOST_TAGS = 20


def leave_artifacts(
    orchestrator: Orchestrator,
    account: Account,
    sources: Iterable[str],
    flow_run_id: UUID,
    now: datetime,
    logger: Logger,
) -> None:
    """Leave a Markdown of what a run did, a table for each of these sources, and a link to the page, if it has a place.

    A run that built something is tagged with the sources: so it is found among many. It keeps its name, by which the
    logs of others call it.

    Where Prefect's API fails, that is said once, and the rest is left out: the build is what it is.

    Args:
        now: the time (UTC).
    """
    lineage, project = orchestrator.lineage_as_parsed, orchestrator.project
    names = short_names(lineage)
    scope = f"{project.name}-{project.target}"
    shown = f"{project.name} ({project.target})"
    sources = list(sources)
    made = [
        (
            _key("lineage-orch-build", scope),
            "markdown",
            f"What this run of {shown} built, and for which loads",
            account_markdown(account, names, flow_run_url, now),
        )
    ]
    keys = source_keys(lineage.sources, scope)
    wanted = dict.fromkeys([each for each in sources if each in keys][:_MOST_SOURCES], 0)
    for source, loads in orchestrator.ledger.recent_loads(wanted, limit=_LAST_LOADS).items():
        rows = json.dumps(load_rows(loads, flow_run_url))
        made.append((keys[source], "table", f"The last loads of {names[source]}, as {shown} knows them", rows))
    if (page := orchestrator.settings.page_url) is not None:
        link = f"[The lineage of {escaped(shown)}](<{page}>)"
        made.append((_key("lineage-orch-page", scope), "markdown", f"The lineage of {shown}", link))
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": _PATIENCE}) as client,
        ):
            for key, kind, description, data in made:
                client.create_artifact(
                    ArtifactCreate(key=key, type=kind, description=description, data=data, flow_run_id=flow_run_id)
                )
            if account.report.built:
                tags = {f"{BUILT_FOR}{names[each]}" for each in sources[:_MOST_TAGS] if each in names}
                tags.update(client.read_flow_run(flow_run_id).tags)
                client.update_flow_run(flow_run_id, tags=sorted(tags))
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        logger.warning("Prefect takes no artifacts of this run, which did what its log says: %s", one_line(error))


def flow_run_url(flow_run_id: str) -> str | None:
    """Return the address of a flow run in Prefect's UI; None where that is not known."""
    try:
        return url_for("flow-run", obj_id=UUID(flow_run_id))
    except ValueError:
        return None


def source_keys(sources: Iterable[str], scope: str) -> dict[str, str]:
    """Return the key of the artifact with the last loads of each source: the same in each run.

    Args:
        sources: the unique_ids of all sources of the project.
        scope: names the project and target.
    """
    plain = {source: _key("lineage-orch-loads", scope, *source.split(".")[2:]) for source in sources}
    same = Counter(plain.values())
    # Two names that differ in nothing that a key may hold.
    return {
        source: key if same[key] == 1 else f"{key}-{sha256(source.encode()).hexdigest()[:8]}"
        for source, key in plain.items()
    }


def _key(*parts: Any) -> str:
    """Return a key of Prefect's: lowercase letters, numbers and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(map(str, parts)).lower()).strip("-")
