"""Where ``producer_tags`` has always been; the tags of runs themselves are in ``loads.tags``."""

from __future__ import annotations

from lineage_orch.loads.tags import producer_tags

__all__ = ["producer_tags"]
