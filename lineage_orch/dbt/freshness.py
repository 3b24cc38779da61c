"""When the newest row of each source was loaded, as ``dbt source freshness`` says. Pure: sources.json in, data out.

Tried on what dbt 1.11 and dbt 2 write; ``tests/dbt/fixtures`` holds some of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lineage_orch.errors import DbtError
from lineage_orch.text import one_line

RUNTIME_ERROR = "runtime error"
"""dbt's status of a source that could not be asked; "error" alone is one whose data is old."""
# Of a table without rows dbt 1 says that it was loaded on 0001-01-01, dbt 2 on 1970-01-01.
_NO_ROWS = datetime(1970, 1, 1, tzinfo=UTC)


class Seen(NamedTuple):
    """What one look at a source showed.

    Attributes:
        loaded_at: when its newest row was loaded (``max_loaded_at``, UTC); None: it has no rows.
        at: when it was looked at (UTC), by the warehouse's clock, which is that of ``loaded_at`` at best.
    """

    loaded_at: datetime | None
    at: datetime


@dataclass(frozen=True)
class Freshness:
    """One look at some sources, all by unique_id.

    Attributes:
        seen: what was seen.
        errors: why others could not be asked.
    """

    seen: Mapping[str, Seen] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


def seen_at(loaded_at: datetime, at: datetime) -> Seen:
    """Return what dbt's ``max_loaded_at`` and ``snapshotted_at`` mean; a time without a zone is one in UTC."""
    loaded_at, at = (each.replace(tzinfo=UTC) if each.tzinfo is None else each for each in (loaded_at, at))
    return Seen(loaded_at.astimezone(UTC) if loaded_at > _NO_ROWS else None, at.astimezone(UTC))


def parse_sources_json(text: bytes) -> Freshness:
    """Return what a sources.json says.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none, or cut off.
    """
    seen: dict[str, Seen] = {}
    errors: dict[str, str] = {}
    for each in json.loads(text)["results"]:
        unique_id = str(each["unique_id"])
        if each["status"] == RUNTIME_ERROR:  # dbt 1.11 leaves such a source out, and so does dbt 2
            errors[unique_id] = one_line(str(each.get("error") or "dbt gave no reason"))
        else:
            seen[unique_id] = seen_at(_time(each["max_loaded_at"]), _time(each["snapshotted_at"]))
    return Freshness(seen, errors)


def read_sources_json(path: Path) -> Freshness:
    """Return what a sources.json that someone's ``dbt source freshness`` wrote says.

    Raises:
        DbtError: there is none, or it cannot be read.
    """
    try:
        return parse_sources_json(path.read_bytes())
    except OSError as error:
        raise DbtError(f"{path} cannot be read: {error.strerror or error}; `dbt source freshness` writes one") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DbtError(f"{path} is no sources.json, or is cut off; `dbt source freshness` writes one") from None


def _time(text: Any) -> datetime:
    return datetime.fromisoformat(text)
