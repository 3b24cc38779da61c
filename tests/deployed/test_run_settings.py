"""What whoever starts a run of the deployment may tell it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lineage_orch.deployed.run_settings import settings_of_run
from lineage_orch.errors import SettingsError
from lineage_orch.loads.tags import ALLOWS, BUILDS, TRIGGERED, WAKE_UP

STORED = {"project_dir": "/srv/dbt", "vars": {"token": "s3cret"}}


def settled(given: dict[str, Any], *run_tags: str, allow: tuple[str, ...] = ()) -> dict[str, Any]:
    return settings_of_run(
        given,
        STORED,
        deployment_tags=[BUILDS, *(f"{ALLOWS}{each}" for each in allow)],
        run_tags=[BUILDS, *run_tags],
        logger=logging.getLogger("test"),
    )


def test_settings_of_deployment_are_those_of_its_runs() -> None:
    assert settled(dict(STORED)) == STORED


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (STORED | {"project_dir": "/elsewhere/dbt"}, "project_dir"),
        (STORED | {"dbt_flags": ["--full-refresh"]}, "dbt_flags"),
        (STORED | {"dbt": "/elsewhere/run_me"}, "dbt"),
        (STORED | {"producers": ["/elsewhere/module.py"]}, "producers"),
        (STORED | {"ledger": "sqlite:////elsewhere/l.db"}, "ledger"),
        (STORED | {"vars": {"token": "0ther"}}, "vars"),
        ({"vars": STORED["vars"]}, "project_dir"),  # what the worker has around it would count
        ({}, "project_dir and vars"),
    ],
)
def test_person_may_not_replace_them(given: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"another {named} than") as raised:
        settled(given)
    assert "s3cret" not in str(raised.value)
    assert "elsewhere" not in str(raised.value)


def test_deployment_may_allow_some() -> None:
    given = STORED | {"dbt_flags": ["--full-refresh"]}
    assert settled(given, allow=("dbt_flags",)) == given
    with pytest.raises(SettingsError, match="another dbt than"):
        settled(given | {"dbt": "x"}, allow=("dbt_flags",))


@pytest.mark.parametrize("tag", [TRIGGERED, WAKE_UP])
def test_load_of_older_deployment_is_built_as_it_says_now(tag: str, caplog: pytest.LogCaptureFixture) -> None:
    old = {"project_dir": "/srv/old", "dbt_flags": ["-x"], "target": "prod"}
    assert settled(old, tag) == STORED
    assert settled(old, tag, allow=("target",)) == STORED | {"target": "prod"}
    assert "another dbt_flags, project_dir, target and vars than" in caplog.text
