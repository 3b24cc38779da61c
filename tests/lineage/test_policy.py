"""dbt's freshness and state configs -> when a stale node may build."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lineage_orch.errors import PolicyError
from lineage_orch.lineage.policy import Policy, read_policy

NODE = "model.shop.mart"
HOURS_4 = timedelta(hours=4)


def build_after(**keys: Any) -> dict[str, Any]:
    return {"build_after": keys}


@pytest.mark.parametrize(
    ("freshness", "state", "policy"),
    [
        (None, None, Policy()),
        ({}, {}, Policy()),
        (build_after(), None, Policy()),
        ({"build_after": None}, None, Policy()),
        # What an old manifest keeps for a source's freshness says nothing of builds.
        ({"warn_after": {"count": 1, "period": "day"}, "error_after": None}, None, Policy()),
        (build_after(count=4, period="hour"), None, Policy("any", HOURS_4)),
        (build_after(count=4, period="hour", updates_on="all"), None, Policy("all", HOURS_4)),
        (build_after(count=30, period="minute", updates_on="any"), None, Policy("any", timedelta(minutes=30))),
        (build_after(count=2, period="day"), None, Policy("any", timedelta(days=2))),
        (build_after(count=0, period="day"), None, Policy("any", timedelta(0))),
        (build_after(count=None, period=None, updates_on="all"), None, Policy("all")),
        (None, {"lag_tolerance": "4h"}, Policy("any", None, HOURS_4)),
        (None, {"require_fresh_data_from": "all"}, Policy("all")),
        (None, {"require_fresh_data_from": None, "lag_tolerance": None, "pre_clone": "never"}, Policy()),
        # Where both name the same thing, `state` wins; what only one names, stays.
        (
            build_after(count=4, period="hour", updates_on="all"),
            {"require_fresh_data_from": "any", "lag_tolerance": "1d"},
            Policy("any", HOURS_4, timedelta(days=1)),
        ),
        (build_after(updates_on="any"), {"require_fresh_data_from": "all"}, Policy("all")),
        (build_after(updates_on="all"), {"lag_tolerance": "4h"}, Policy("all", None, HOURS_4)),
    ],
)
def test_policies_that_dbt_writes_are_read(freshness: Any, state: Any, policy: Policy) -> None:
    assert read_policy(NODE, freshness, state) == policy


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("1 second", timedelta(seconds=1)),
        ("45m", timedelta(minutes=45)),
        ("45 minutes", timedelta(minutes=45)),
        ("4H", HOURS_4),
        (" 4 hours ", HOURS_4),
        ("7d", timedelta(days=7)),
        ("1day", timedelta(days=1)),
        ("2w", timedelta(weeks=2)),
        ("1 week", timedelta(weeks=1)),
        ("0m", timedelta(0)),
    ],
)
def test_durations_in_all_of_dbts_units(text: str, length: timedelta) -> None:
    assert read_policy(NODE, None, {"lag_tolerance": text}).lag_tolerance == length


@pytest.mark.parametrize(
    ("freshness", "state", "key", "value"),
    [
        ("4h", None, "freshness", "'4h'"),
        (False, None, "freshness", "False"),
        ({"build_after": "4h"}, None, "freshness.build_after", "'4h'"),
        (build_after(count="4", period="hour"), None, "freshness.build_after.count", "'4'"),
        (build_after(count=1.5, period="hour"), None, "freshness.build_after.count", "1.5"),
        (build_after(count=True, period="hour"), None, "freshness.build_after.count", "True"),
        (build_after(count=-1, period="hour"), None, "freshness.build_after.count", "-1"),
        (build_after(period="hour"), None, "freshness.build_after.count", "None"),
        (build_after(count=4), None, "freshness.build_after.period", "None"),
        (build_after(count=4, period="week"), None, "freshness.build_after.period", "'week'"),
        (build_after(count=4, period=["hour"]), None, "freshness.build_after.period", r"\['hour'\]"),
        (build_after(count=10**12, period="day"), None, "freshness.build_after.count", "1000000000000"),
        (build_after(updates_on="some"), None, "freshness.build_after.updates_on", "'some'"),
        (build_after(updates_on=["all"]), None, "freshness.build_after.updates_on", r"\['all'\]"),
        (None, ["4h"], "state", r"\['4h'\]"),
        (None, {"require_fresh_data_from": "most"}, "state.require_fresh_data_from", "'most'"),
        (None, {"lag_tolerance": 4}, "state.lag_tolerance", "4"),
        (None, {"lag_tolerance": ""}, "state.lag_tolerance", "''"),
        (None, {"lag_tolerance": "4"}, "state.lag_tolerance", "'4'"),
        (None, {"lag_tolerance": "-4h"}, "state.lag_tolerance", "'-4h'"),
        (None, {"lag_tolerance": "4 fortnights"}, "state.lag_tolerance", "'4 fortnights'"),
        (None, {"lag_tolerance": "99999999999999w"}, "state.lag_tolerance", "'99999999999999w'"),
        (None, {"lag_tolerance": "9" * 5_000 + "h"}, "state.lag_tolerance", "'9{199}"),  # more than Python reads
    ],
)
def test_unreadable_policy_names_node_key_and_value(freshness: Any, state: Any, key: str, value: str) -> None:
    with pytest.raises(PolicyError, match=rf"config\.{key} of model\.shop\.mart is {value};"):
        read_policy(NODE, freshness, state)
