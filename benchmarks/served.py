"""A deployment named as the dbt one that does nothing, for the row that measures how soon a run is RUNNING."""

from __future__ import annotations

from typing import Any

from prefect import flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy


@flow(name="build-affected")
def nothing(updates: list[dict[str, Any]] | None = None, producers: list[str] | None = None) -> None: ...


if __name__ == "__main__":
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    serve(nothing.to_deployment("dbt", concurrency_limit=one))
