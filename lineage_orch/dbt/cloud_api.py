"""The Administrative API v2 of dbt Cloud ("dbt platform"), as far as a build needs it.

Source: https://docs.getdbt.com/dbt-cloud/api-v2, made from ``openapi-v2.yaml`` in dbt-labs/dbt-cloud-openapi-spec.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from lineage_orch.errors import DbtCloudUnavailableError, DbtError, SettingsError
from lineage_orch.text import one_line

Run = Mapping[str, Any]
"""A run, as the API tells of it: ``id``, ``status``, ``run_steps``, ``git_sha``, ``href``, ..."""

# Of a run, and of a step of one.
UNFINISHED = frozenset({1, 2, 3})  # queued, starting, running
SUCCESS, ERROR, CANCELLED = 10, 20, 30

_HINTS = {
    401: "is dbt_cloud_token a token of this account, and still valid?",
    403: "give the token the right to run jobs and to read their runs (permission set Job Admin, for one)",
    404: "correct dbt_cloud_account, dbt_cloud_job or dbt_cloud_host; a token that may not see a job is told the same",
}


class CloudApi:
    """An account of dbt Cloud. A request that fails for a moment is made again, one that starts a run is not.

    Args:
        host: of the account, such as ``ab123.us1.dbt.com``.
        token: a service token or personal token.
        timeout: how many seconds an answer may take.
        backoff: how many seconds before the second retry; before the first none, then twice as long each.

    Raises:
        SettingsError: the host is no https address; that of this machine may be http.
    """

    def __init__(self, host: str, account: int, token: str, *, timeout: float = 60.0, backoff: float = 1.0) -> None:
        self.host = host.rstrip("/") if "://" in host else f"https://{host.rstrip('/')}"
        parts = urlsplit(self.host)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
            raise SettingsError(f"setting dbt_cloud_host {host!r}: a token goes over https alone; correct the host")
        self._account = f"{self.host}/api/v2/accounts/{account}"
        self._timeout = timeout
        self._session = requests.Session()
        # As `auth`, since a header of the session would give way to an entry in ~/.netrc.
        self._session.auth = _Token(token)
        self._session.headers["Accept"] = "application/json"
        retry = _Retry(
            total=3,
            backoff_factor=backoff,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("GET",),
            raise_on_status=False,
        )
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def start(self, job: int, steps: Sequence[str], cause: str, **overrides: Any) -> Run:
        """Start a run of a job.

        Args:
            steps: the commands that it runs in place of its own.
            cause: why; unlike that of any other run, as a run is found by it when the answer is lost.
            overrides: see ``TriggerRunRequestRequest`` in the API.

        Raises:
            DbtError, DbtCloudUnavailableError: it could not be started.
        """
        body = {"cause": cause, "steps_override": list(steps), **overrides}
        try:
            started: Run = self._data("POST", f"/jobs/{job}/run/", f"start job {job}", json=body)
            return started
        except DbtCloudUnavailableError:
            # It may have started all the same: once more, and all would be built twice.
            if (run := self.caused_by(job, cause)) is None:
                raise
            return run

    def unfinished(self, job: int, cause: str) -> list[Run]:
        """Return the runs of a job that have not ended, and whose cause begins so."""
        unfinished = json.dumps(sorted(UNFINISHED))
        query = {"job_definition_id": job, "status__in": unfinished, "include_related": '["trigger"]', "limit": 100}
        runs = self._data("GET", "/runs/", f"list the runs of job {job}", params=query)
        return [run for run in runs if str((run.get("trigger") or {}).get("cause")).startswith(cause)]

    def caused_by(self, job: int, cause: str) -> Run | None:
        """Return the run of a job that was started with a cause, if it has not ended."""
        return next(iter(self.unfinished(job, cause)), None)

    def last_success(self, job: int) -> Run | None:
        """Return the newest run of a job that succeeded; None if none did."""
        query = {"job_definition_id": job, "status": SUCCESS, "order_by": "-id", "limit": 1}
        runs = self._data("GET", "/runs/", f"list the runs of job {job}", params=query)
        return next(iter(runs), None)

    def run(self, run: int) -> Run:
        """Return a run with its steps."""
        related = {"include_related": '["run_steps"]'}
        found: Run = self._data("GET", f"/runs/{run}/", f"tell of run {run}", params=related)
        return found

    def cancel(self, run: int) -> None:
        """Cancel a run; it ends a little later."""
        self._data("POST", f"/runs/{run}/cancel/", f"cancel run {run}")

    def artifact(self, run: int, path: str, step: int | None = None) -> bytes | None:
        """Return a file that a step of a run wrote; None while there is none.

        Args:
            path: such as ``manifest.json``.
            step: the step's index, from 1; None for the last.
        """
        query = {} if step is None else {"step": step}
        answer = self._ask("GET", f"/runs/{run}/artifacts/{path}", params=query)
        if answer.status_code == 404:
            return None
        self._check(answer, f"give {path} of run {run}")
        return answer.content

    def _data(self, method: str, path: str, what: str, **more: Any) -> Any:
        answer = self._ask(method, path, **more)
        self._check(answer, what)
        try:
            return answer.json()["data"]
        except (ValueError, KeyError, TypeError):
            raise DbtError(
                f"{self.host} does not answer as dbt Cloud does; set dbt_cloud_host to the access URL of your account "
                "(in its settings)"
            ) from None

    def _ask(self, method: str, path: str, **more: Any) -> requests.Response:
        try:
            return self._session.request(method, self._account + path, timeout=(10, self._timeout), **more)
        except requests.RequestException as error:
            raise DbtCloudUnavailableError(
                f"dbt Cloud does not answer at {self.host}: {one_line(error, most=300)}"
            ) from None

    def _check(self, answer: requests.Response, what: str) -> None:
        """Raise unless it is a success; ``what`` is what was asked for."""
        if answer.ok:
            return
        code, said = answer.status_code, _said(answer)
        if code == 429 or code >= 500:
            raise DbtCloudUnavailableError(f"dbt Cloud cannot {what} now ({code}): {said}")
        hint = f"; {_HINTS[code]}" if code in _HINTS else ""
        raise DbtError(f"dbt Cloud will not {what} ({code}): {said}{hint}")


class _Token(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Token {self._token}"
        return request


class _Retry(Retry):
    """Whoever is told 429 was not served: that is asked again, whatever it was."""

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        return status_code == 429 or super().is_retry(method, status_code, has_retry_after)


def _said(answer: requests.Response) -> str:
    """Return what an error says, as ``{"status": {"user_message": ..., "developer_message": ...}}``."""
    try:
        status = answer.json()["status"]
        said = [status.get("user_message"), status.get("developer_message")]
    except (ValueError, KeyError, TypeError, AttributeError):
        said = [answer.reason]
    return one_line("; ".join(dict.fromkeys(str(each) for each in said if each)), most=500) or "it gives no reason"
