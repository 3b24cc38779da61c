"""Load one list of a dummyjson-shaped REST API into one raw file.

Every load of the monorepo is `load("products", table="raw_products")`: get all the pages, check that they are
whole, and put them where dbt reads them. What a load promises: the raw file is either the old one or the
whole new one, never a part.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable
from logging import Logger, LoggerAdapter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

DEFAULT_BASE_URL = "https://dummyjson.com"
# Absolute, and found once: dbt changes the working directory of the process that it runs in.
DEFAULT_RAW_DIR = Path(__file__).resolve().parents[2] / "data" / "raw"

PAGE_SIZE = 50
READ_ATTEMPTS = 3
# Connect and read, in seconds. With two retries a dead API is given up within 15 s, however it died.
TIMEOUTS = (2.0, 4.0)

Row = dict[str, Any]


class LoadError(Exception):
    """A load that could not be completed. The raw file is still that of the last good load."""


def load(resource: str, *, table: str) -> int:
    """Load all rows of `resource` into `<raw dir>/<table>.jsonl`; return how many there are."""
    url = f"{base_url()}/{resource}"
    target = raw_dir() / f"{table}.jsonl"
    with open_session(url) as session:
        rows = fetch_all(session, url, key=resource)
    write_json_lines(rows, target)
    _logger().info("Loaded %d rows of %s into %s", len(rows), url, target.name)
    return len(rows)


def base_url() -> str:
    """Where the API is: the real service, or what DUMMYJSON_BASE_URL says."""
    return (os.environ.get("DUMMYJSON_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")


def raw_dir() -> Path:
    """The folder of the raw files, which dbt reads as well: EXAMPLE_RAW_DIR, or the example's own."""
    setting = os.environ.get("EXAMPLE_RAW_DIR")
    if not setting:
        return DEFAULT_RAW_DIR
    if not Path(setting).is_absolute():
        # dbt would look for it from its own project's folder, and read another file than the load wrote.
        raise LoadError(f"EXAMPLE_RAW_DIR must be an absolute path, got {setting!r}")
    return Path(setting)


def open_session(url: str) -> requests.Session:
    """Open a session that tries again, briefly, what is worth trying again: 5xx, 429, lost connections."""
    retry = Retry(
        total=2,
        backoff_factor=0.3,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET",),
        # Without a limit of our own, a "Retry-After: 3600" would hold the load for an hour.
        respect_retry_after_header=False,
        raise_on_status=False,  # let raise_for_status say it
    )
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    if urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}:
        session.trust_env = False  # a proxy of the environment cannot reach our own loopback
    return session


def fetch_all(session: requests.Session, url: str, *, key: str, page_size: int = PAGE_SIZE) -> list[Row]:
    """Get every row of a list that is served in pages, or raise `LoadError`.

    A row that is added or deleted while we turn the pages shifts all later ones: some rows come twice, others
    never. So what was read counts only if the total stood still, every row came once, and their number is
    the total; else it is all read again, a few times at most.
    """
    problem = ""
    for _ in range(READ_ATTEMPTS):
        rows, totals = _read_pages(session, url, key, page_size)
        total = totals[-1]
        if len(set(totals)) > 1:
            problem = f"its total changed from {totals[0]} to {total} while it was read"
        elif len(rows) != total:
            problem = f"it promised {total} rows and gave {len(rows)}"
        elif len({row["id"] for row in rows}) != total:
            problem = "it gave some rows twice"
        else:
            return rows
    raise LoadError(f"{url} cannot be read whole: {problem} (tried {READ_ATTEMPTS} times)")


def _read_pages(session: requests.Session, url: str, key: str, page_size: int) -> tuple[list[Row], list[int]]:
    """Read page after page until the total is reached or a page is empty; return the rows and the totals."""
    rows: list[Row] = []
    totals: list[int] = []
    while True:
        page, total = _get_page(session, url, key, limit=page_size, skip=len(rows))
        rows += page
        totals.append(total)
        # Every page but the last moves us on, and a total that runs away from us ends the read as well.
        if not page or len(rows) >= total or total != totals[0]:
            return rows, totals


def _get_page(session: requests.Session, url: str, key: str, *, limit: int, skip: int) -> tuple[list[Row], int]:
    try:
        response = session.get(url, params={"limit": limit, "skip": skip}, timeout=TIMEOUTS)
        response.raise_for_status()
        payload = response.json()
    except requests.JSONDecodeError:
        raise LoadError(f"{url} did not answer with JSON") from None
    except requests.HTTPError as error:
        status = error.response.status_code
        raise LoadError(f"{url} answered {status} {error.response.reason}") from None
    except requests.RequestException as error:
        raise LoadError(f"{url} cannot be reached: {_cause(error)}") from None
    try:
        page, total = payload[key], int(payload["total"])
        well_formed = isinstance(page, list) and all(isinstance(row, dict) and "id" in row for row in page)
    except (KeyError, TypeError, ValueError):
        well_formed = False
    if not well_formed:
        raise LoadError(f"{url} did not answer with a list of {key!r} and their 'total'")
    return page, total


def _cause(error: BaseException) -> str:
    """Say what is at the bottom of a nest of connection errors: "Connection refused", not four wrappings."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    while inner := error.__cause__ or next((arg for arg in error.args if isinstance(arg, Exception)), None):
        error = inner
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or error)


def write_json_lines(rows: Iterable[Row], target: Path) -> None:
    """Write one JSON object per line, all or nothing: `target` is the old file or the new one.

    The rows go to a temporary file in the same folder (a rename is atomic only within one file system),
    which is on the disk before it takes the name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; dbt may run as another user
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _logger() -> Logger | LoggerAdapter[Logger]:
    """The logger of the flow run, or a plain one when the function is called outside of any run."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
