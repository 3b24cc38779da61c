"""``@follows``: what it leaves on a flow, and how a flow that has it is found and imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task

from lineage_orch.errors import ProducerError
from lineage_orch.loads.declaration import declaration_of
from lineage_orch.loads.discovery import find_producers, load_follower
from lineage_orch.loads.following import (
    declared_followers,
    following_of,
    follows,
)
from lineage_orch.producers import produces_source

PUSH = """
from __future__ import annotations
from pathlib import Path
from prefect import flow
from lineage_orch.loads.following import follows
import beside

@follows("mart_sales", "shop.mart_stock", build_after="6h")
@flow(name="push-sales")
def push(out: Path | None = None):
    return beside.NAME
"""


def test_flow_itself_comes_back_with_what_was_declared() -> None:
    @flow
    def push(sources: list[str]) -> None: ...

    decorated = follows("mart", "mart", "other", deployment="push/prod", updates_on="all", lag_tolerance="4h")(push)
    assert decorated is push
    found = following_of(push)
    assert found is not None
    assert (found.name, found.follows, found.deployment) == ("push", ("mart", "other"), "push/prod")
    assert (found.updates_on, found.build_after, found.lag_tolerance) == ("all", None, "4h")
    assert found.where.startswith(__file__)
    assert dict(declared_followers()) == {"push": push}


def test_copy_with_other_options_is_a_follower_too() -> None:
    @follows("mart")
    @flow
    def push() -> None: ...

    assert following_of(push.with_options(on_completion=[], retries=2)) == following_of(push)


def test_flow_may_load_and_follow() -> None:
    @follows("mart")
    @produces_source("crm.orders")
    @flow
    def push() -> None: ...

    assert following_of(push) is not None
    assert declaration_of(push) is not None


def test_what_is_no_follower_says_none() -> None:
    @flow
    def plain() -> None: ...

    assert following_of(plain) is None
    assert following_of("plain") is None


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ((), {}, "takes the names of models"),
        ((7,), {}, "takes the names of models"),
        (("mart",), {"deployment": "prod"}, "has no flow name; write it as flow/name"),
        (("mart",), {"updates_on": "some"}, "it must be any or all"),
    ],
)
def test_what_cannot_be_meant_is_refused(models: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ProducerError, match=message):
        follows(*models, **options)


def test_it_stands_above_flow() -> None:
    with pytest.raises(ProducerError, match="stands above @flow, and 'push' is no flow"):

        @follows("mart")
        def push() -> None: ...

    with pytest.raises(ProducerError, match="is no flow"):
        follows("mart")(task(lambda: None))  # type: ignore[type-var]


def test_follower_is_found_in_a_folder_and_imported_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "push.py").write_text(PUSH)
    (tmp_path / "flows" / "beside.py").write_text("NAME = 'beside'")
    found = find_producers(["flows"])
    assert (found.producers, found.failures) == ((), ())
    (following,) = found.followers
    assert (following.name, following.follows) == ("push-sales", ("mart_sales", "shop.mart_stock"))
    assert declared_followers() == {}
    assert "beside" not in sys.modules
    loaded = load_follower(following)
    assert loaded.fn() == "beside"
    assert dict(declared_followers()) == {"push-sales": loaded}
    sys.modules.pop("beside")


def test_follower_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "push.py").write_text(PUSH.replace("import beside", ""))
    (following,) = find_producers([tmp_path / "push.py"]).followers
    (tmp_path / "push.py").write_text("raise SystemExit(3)")
    with pytest.raises(ProducerError, match=r"the follower 'push-sales' cannot be imported from .*push\.py"):
        load_follower(following)
    (tmp_path / "push.py").write_text("NAME = 1")
    with pytest.raises(ProducerError, match=r"the follower 'push-sales' is not in .* any more"):
        load_follower(following)
