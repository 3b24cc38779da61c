"""The loads of the example project, over real HTTP on loopback, without a Prefect server or dbt."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from example_project import api_server  # noqa: E402
from example_project.ints.common import rest_api  # noqa: E402

LOADS = {"products": api_server.PRODUCTS, "carts": api_server.CARTS, "users": api_server.USERS}


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with api_server.serve() as base_url:
        yield base_url


@pytest.fixture
def raw_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "raw"
    monkeypatch.setenv("EXAMPLE_RAW_DIR", str(folder))
    return folder


@contextmanager
def api(answer: Callable[[int, int], tuple[int, object]]) -> Iterator[str]:
    """An API that behaves badly: `answer(limit, skip)` gives the status and the body of each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = dict(pair.split("=") for pair in self.path.split("?")[1].split("&"))
            status, body = answer(int(query["limit"]), int(query["skip"]))
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/things"
    finally:
        server.shutdown()
        server.server_close()


def page(ids: list[int], total: int) -> tuple[int, object]:
    return 200, {"things": [{"id": number} for number in ids], "total": total}


def fetch(url: str, page_size: int = 3) -> list[int]:
    with rest_api.open_session(url) as session:
        return [row["id"] for row in rest_api.fetch_all(session, url, key="things", page_size=page_size)]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


# --- paging


@pytest.mark.parametrize("page_size", [1, 3, 7, 10, 11])
def test_pages_are_read_in_order_whatever_their_size(page_size: int) -> None:
    asked: list[int] = []

    def answer(limit: int, skip: int) -> tuple[int, object]:
        asked.append(skip)
        return page(list(range(10))[skip : skip + limit], 10)

    with api(answer) as url:
        assert fetch(url, page_size) == list(range(10))
    assert asked == list(range(0, 10, page_size))


def test_empty_list_is_load_of_no_rows() -> None:
    with api(lambda limit, skip: page([], 0)) as url:
        assert fetch(url) == []


def test_smaller_pages_than_asked_are_read_whole() -> None:
    with api(lambda limit, skip: page(list(range(10))[skip : skip + 2], 10)) as url:
        assert fetch(url, page_size=5) == list(range(10))


def test_changing_total_makes_it_read_again() -> None:
    requests_seen: list[int] = []

    def answer(limit: int, skip: int) -> tuple[int, object]:
        requests_seen.append(skip)
        total = 4 if len(requests_seen) == 1 else 5  # a row comes in after the first page
        return page(list(range(total))[skip : skip + limit], total)

    with api(answer) as url:
        assert fetch(url) == [0, 1, 2, 3, 4]
    assert requests_seen == [0, 3, 0, 3]


def test_total_that_never_stands_still_ends_in_error() -> None:
    seen: list[int] = []

    def answer(limit: int, skip: int) -> tuple[int, object]:
        seen.append(skip)
        return page(list(range(skip, skip + limit)), 100 + len(seen))

    with api(answer) as url, pytest.raises(rest_api.LoadError, match="total changed"):
        fetch(url)
    assert len(seen) == 2 * rest_api.READ_ATTEMPTS


def test_empty_page_before_total_ends_in_error_not_in_loop() -> None:
    with (
        api(lambda limit, skip: page(list(range(4))[skip : skip + limit], 10)) as url,
        pytest.raises(rest_api.LoadError, match="promised 10 rows and gave 4"),
    ):
        fetch(url)


def test_server_that_ignores_skip_ends_in_error() -> None:
    with (
        api(lambda limit, skip: page([0, 1, 2], 6)) as url,
        pytest.raises(rest_api.LoadError, match="rows twice"),
    ):
        fetch(url)


def test_more_rows_than_total_is_error() -> None:
    with (
        api(lambda limit, skip: page([0, 1, 2, 3], 3)) as url,
        pytest.raises(rest_api.LoadError, match="promised 3 rows and gave 4"),
    ):
        fetch(url)


# --- an API in trouble


def test_passing_fault_of_server_is_tried_again() -> None:
    statuses = [503, 502, 200]

    def answer(limit: int, skip: int) -> tuple[int, object]:
        return statuses.pop(0), page([1], 1)[1]

    with api(answer) as url:
        assert fetch(url) == [1]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, b"", "answered 500"),
        (404, {"message": "no"}, "answered 404"),
        (200, b"<html>Come back later</html>", "did not answer with JSON"),
        (200, [], "did not answer with a list of 'things'"),
        (200, {"things": [{"id": 1}]}, "did not answer with a list of 'things'"),
        (200, {"things": [1], "total": 1}, "did not answer with a list of 'things'"),
        (200, {"things": None, "total": 0}, "did not answer with a list of 'things'"),
    ],
)
def test_bad_answer_is_one_clear_line(status: int, body: object, message: str) -> None:
    with api(lambda limit, skip: (status, body)) as url, pytest.raises(rest_api.LoadError) as error:
        fetch(url)
    assert message in str(error.value)
    assert url in str(error.value)
    assert "\n" not in str(error.value)


def test_dead_api_ends_in_one_line_and_writes_nothing(raw_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("DUMMYJSON_BASE_URL", url)
    started = time.monotonic()
    with pytest.raises(rest_api.LoadError) as error:
        rest_api.load("products", table="raw_products")
    assert time.monotonic() - started < 15
    assert str(error.value) == f"{url}/products cannot be reached: Connection refused"
    assert not raw_dir.exists()


def test_api_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_api, "TIMEOUTS", (0.2, 0.2))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(rest_api.LoadError, match=r"no answer in time$"),
    ):
        fetch(f"http://127.0.0.1:{server.getsockname()[1]}/things")


def test_proxy_of_environment_is_not_asked_for_loopback(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with rest_api.open_session(shop) as session:
        assert session.get(f"{shop}/users", timeout=5).ok


# --- the raw file


def test_crash_while_writing_leaves_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "raw_things.jsonl"
    rest_api.write_json_lines([{"id": 1}], target)

    def rows() -> Iterator[dict]:
        yield {"id": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rest_api.write_json_lines(rows(), target)
    assert lines(target) == [{"id": 1}]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_killed_load_leaves_old_file(tmp_path: Path) -> None:
    target = tmp_path / "raw_things.jsonl"
    rest_api.write_json_lines([{"id": 1}], target)
    script = (
        "import sys, pathlib, itertools\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from example_project.ints.common.rest_api import write_json_lines\n"
        "rows = itertools.chain(({'id': i} for i in range(100_000)), iter(lambda: print('x', flush=True), 1))\n"
        "write_json_lines(rows, pathlib.Path(sys.argv[1]))\n"
    )
    load = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE)
    assert load.stdout is not None
    load.stdout.readline()  # it is in the middle of writing
    load.send_signal(signal.SIGKILL)
    load.wait(10)
    load.stdout.close()
    assert lines(target) == [{"id": 1}]
    assert list(tmp_path.glob("*.jsonl")) == [target]


def test_rows_are_compact_lines_and_keep_their_letters(tmp_path: Path) -> None:
    target = tmp_path / "new" / "raw_things.jsonl"
    rest_api.write_json_lines([{"id": 1, "title": "Krém\n\u2028"}, {"id": 2, "tags": []}], target)
    text = target.read_text("utf-8")
    assert text.split("\n") == ['{"id":1,"title":"Krém\\n\u2028"}', '{"id":2,"tags":[]}', ""]


def test_relative_raw_dir_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_RAW_DIR", "raw")
    with pytest.raises(rest_api.LoadError, match="absolute"):
        rest_api.raw_dir()


@pytest.mark.parametrize("resource", list(LOADS))
def test_load_brings_every_row_of_shop(
    resource: str, shop: str, raw_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUMMYJSON_BASE_URL", f"{shop}/")
    assert rest_api.load(resource, table=f"raw_{resource}") == LOADS[resource]
    assert lines(raw_dir / f"raw_{resource}.jsonl") == api_server.generate()[resource]


@pytest.mark.parametrize("resource", list(LOADS))
def test_flow_loads_its_source_however_it_is_imported(
    resource: str, shop: str, raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(pytest.importorskip("lineage_orch"), "produces_source"):
        pytest.skip("lineage_orch has no produces_source")
    from prefect.utilities.importtools import import_object

    monkeypatch.setenv("DUMMYJSON_BASE_URL", shop)
    monkeypatch.chdir(tmp_path)  # a runner may stand anywhere
    monkeypatch.setattr(sys, "path", [*sys.path])  # the loader of Prefect adds to it
    folder = ROOT / "example_project" / "ints" / f"dummyjson_{resource}" / "flows"
    by_module = import_object(f"example_project.ints.dummyjson_{resource}.flows.api.export")
    by_path = import_object(f"{folder / 'api.py'}:export")
    for flow in (by_module, by_path):
        (raw_dir / f"raw_{resource}.jsonl").unlink(missing_ok=True)
        assert flow.name == f"dummyjson-{resource}"
        assert flow.fn() == LOADS[resource]
        assert len(lines(raw_dir / f"raw_{resource}.jsonl")) == LOADS[resource]


# --- the stand-in for the API


def get(url: str) -> dict:
    return requests.get(url, timeout=5, proxies={"http": ""}).json()


def test_server_answers_in_shape_of_service(shop: str) -> None:
    first = get(f"{shop}/products")
    assert list(first) == ["products", "total", "skip", "limit"]
    assert (len(first["products"]), first["total"], first["skip"], first["limit"]) == (30, 120, 0, 30)
    assert len(get(f"{shop}/products?limit=0")["products"]) == 120
    last = get(f"{shop}/carts?limit=50&skip=70")
    assert [cart["id"] for cart in last["carts"]] == list(range(71, 81))
    assert get(f"{shop}/users?skip=1000")["users"] == []
    assert first["products"][0]["reviews"] is not None
    assert set(first["products"][0]["dimensions"]) == {"width", "height", "depth"}


@pytest.mark.parametrize(("path", "status"), [("nowhere", 404), ("", 404), ("users?limit=many", 400)])
def test_server_refuses_what_it_does_not_know(shop: str, path: str, status: int) -> None:
    response = requests.get(f"{shop}/{path}", timeout=5, proxies={"http": ""})
    assert response.status_code == status
    assert response.json()["message"]


def test_generated_shop_is_same_each_time_and_hangs_together() -> None:
    shop = api_server.generate()
    assert shop == api_server.generate()
    product_ids = {product["id"] for product in shop["products"]}
    user_ids = {user["id"] for user in shop["users"]}
    assert {item["id"] for cart in shop["carts"] for item in cart["products"]} <= product_ids
    assert {cart["userId"] for cart in shop["carts"]} <= user_ids
    assert any("brand" not in product for product in shop["products"])
    assert any(not product["reviews"] for product in shop["products"])


def test_day_later_some_prices_differ_and_some_carts_are_new() -> None:
    before, after = api_server.generate(), api_server.generate(day=1)
    changed = [old for old, new in zip(before["products"], after["products"], strict=True) if old != new]
    assert len(changed) == api_server.PRICE_CHANGES_PER_DAY
    assert after["carts"][: len(before["carts"])] == before["carts"]
    assert len(after["carts"]) == len(before["carts"]) + api_server.NEW_CARTS_PER_DAY
    assert after["users"] == before["users"]


def test_server_can_serve_folder_of_rows(tmp_path: Path) -> None:
    for name in api_server.RESOURCES:
        (tmp_path / f"{name}.json").write_text(json.dumps([{"id": 7, "of": name}]))
    with api_server.serve(api_server.read_rows(tmp_path)) as base_url:
        assert get(f"{base_url}/carts") == {
            "carts": [{"id": 7, "of": "carts"}],
            "total": 1,
            "skip": 0,
            "limit": 1,
        }


@pytest.mark.skipif(os.name == "nt", reason="interrupts by signal")
def test_server_runs_from_shell_and_ends_quietly() -> None:
    command = [sys.executable, "-m", "example_project.api_server"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    base_url = server.stdout.readline().strip()
    assert get(f"{base_url}/users")["total"] == 60
    server.send_signal(signal.SIGINT)
    _, errors = server.communicate(timeout=10)
    assert server.returncode == 0
    assert "Traceback" not in errors
