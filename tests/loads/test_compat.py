"""The private part of Prefect that the library reads is there, and its absence is said."""

from __future__ import annotations

import logging

import pytest
from prefect.context import FlowRunContext

from lineage_orch.loads import compat


def test_flows_around_subflow_are_seen_innermost_first() -> None:
    outer, inner = FlowRunContext.model_construct(), FlowRunContext.model_construct()
    assert list(compat.flow_contexts()) == []
    with outer, inner:
        seen = list(compat.flow_contexts())
    assert len(seen) == 2, "Prefect keeps the context around in another place: see lineage_orch/loads/compat.py"
    assert seen[0] is inner
    assert seen[1] is outer


def test_innermost_run_is_seen_where_prefect_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compat._warn.cache_clear()
    outer, inner = FlowRunContext.model_construct(), FlowRunContext.model_construct()
    with outer, inner:
        token = inner._token
        del inner._token
        try:
            with caplog.at_level(logging.WARNING):
                assert list(compat.flow_contexts()) == [inner]
                assert list(compat.flow_contexts()) == [inner]
        finally:
            inner._token = token
    [record] = caplog.records
    assert "does not tell which flows are around a subflow" in record.getMessage()
    assert "Report this" in record.getMessage()
