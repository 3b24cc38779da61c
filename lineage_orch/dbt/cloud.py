"""dbt Cloud: a build is a run of a job there, whose steps are replaced by the one command that the plan asks for.

No account was at hand when this was written: it was tried against a stand-in that answers as the API is documented and
runs the real dbt (``tests/dbt/cloud_server.py``).
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

from lineage_orch.dbt.cloud_api import CANCELLED, SUCCESS, UNFINISHED, CloudApi, Run
from lineage_orch.dbt.command import selection
from lineage_orch.dbt.engine import FAILED, DbtEngine, OnResult, Outcome
from lineage_orch.dbt.inputs import Inputs, digest
from lineage_orch.dbt.log_lines import plain
from lineage_orch.dbt.project import DbtProject
from lineage_orch.dbt.run_results import Written, parse_run_results
from lineage_orch.dbt.task_runs import NodeTaskRuns, flow_run_id, run_logger
from lineage_orch.errors import DbtCloudUnavailableError, DbtError, SettingsError
from lineage_orch.loads.completion import Logger
from lineage_orch.settings import ENV_PREFIX, LineageOrchSettings
from lineage_orch.text import count, one_line

HOST = "cloud.getdbt.com"


@dataclass(eq=False, repr=False)
class CloudDbt(DbtEngine):
    """dbt as a job of dbt Cloud.

    A node's end is known when its step has ended and dbt Cloud has stored what dbt wrote: not as it happens.

    Attributes:
        project: the dbt project; of its files here, dbt_project.yml alone is read.
        settings: the job, the account, the dbt command, flags and vars.
        logger: takes dbt's lines. Default: that of the Prefect run, in one; else ``lineage_orch.dbt``.
        poll: how many seconds between two looks at a run.
        patience: how many seconds dbt Cloud may not answer while a run is at work.
        grace: how many seconds a run has to end when it is cancelled.
        settle: how many seconds after its end what a run wrote may still be missing.
        backoff: see ``CloudApi``.
    """

    project: DbtProject
    settings: LineageOrchSettings
    _: KW_ONLY
    logger: Logger | None = None
    poll: float = 5.0
    patience: float = 900.0
    grace: float = 20.0
    settle: float = 30.0
    backoff: float = 1.0

    def end_left(self) -> None:
        """Cancel the runs of a build of this ledger whose process was killed: none records them.

        What is parsed or built next would wait for them, since the runs of a job wait for one another.
        """
        try:
            for run in self._api.unfinished(self._job, self._cause_of_builds):
                self._logger.warning(
                    "Run %s of job %s in dbt Cloud is left of a build whose process is gone. It is cancelled, and what "
                    "is stale is built anew: %s",
                    run["id"],
                    self._job,
                    _address(run),
                )
                self._api.cancel(run["id"])
        except DbtError as error:
            self._logger.warning("Whether an earlier build left a run at work is not known: %s", one_line(error))

    def parse(self) -> str | None:
        """Write the project's manifest anew.

        It is that of the job's last run, if that ran the commit that is checked out here, with no target or vars of
        ours; else that of a run of ``dbt parse``.
        """
        known = self._run_of_this_commit()
        if known is not None and self._take_manifest(known, None):
            return None
        run = self._run(["dbt", "parse", *self.project.vars_args])
        if run["status"] != SUCCESS:
            raise DbtError(
                f"job {self._job} of dbt Cloud cannot parse its dbt project: {_why(run)}. See {_address(run)}"
            )
        if not self._take_manifest(run, "parse"):
            raise DbtError(f"dbt Cloud has stored no manifest.json of its run {run['id']}. See {_address(run)}")
        return None

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        """Build a selection."""
        command = self.settings.dbt_command
        words = ["dbt", *selection(self.settings, select, exclude), *self.project.vars_args]
        inputs = self.project.inputs()
        written: Written | None = None
        cause = self._cause_of_builds
        with NodeTaskRuns(flow_run_id(), self._logger) as shown:

            def look(run: Run) -> None:
                nonlocal written
                step = _step(run, command)
                if written is not None or {run["status"], step["status"]} <= UNFINISHED:
                    return
                written = self._results(run, step)
                for result in written.results.values() if written is not None else ():
                    # What was stopped in the middle has not failed.
                    if CANCELLED not in (run["status"], step["status"]) or result.status not in FAILED:
                        shown.started(result.unique_id)
                        shown.ended(result)
                        on_result(result)

            run = self._run([*words, *flags, *self.settings.dbt_flags], look, cause)
        self._note_manifest(run, inputs)
        results = tuple(written.results.values()) if written is not None else ()
        has_failed = any(each.status in FAILED for each in results)
        step = _step(run, command)
        if run["status"] == CANCELLED or written is None or (step["status"] != SUCCESS and not has_failed):
            told = f"; what finished before is recorded ({count(results, 'result')})" if results else ""
            raise DbtError(
                f"`dbt {command}` did not run to its end in run {run['id']} of dbt Cloud: {_why(run)}{told}. "
                f"See {_address(run)}"
            )
        return Outcome(results, cut_short=step["status"] != SUCCESS and written.fail_fast)

    def ls(self, selector: str) -> frozenset[str]:
        """Return what ``dbt ls`` says of a selector, in a run of its own."""
        words = ["dbt", "ls", "--select", selector, "--output", "json", "--output-keys", "unique_id"]
        run = self._run([*words, *self.project.vars_args])
        if run["status"] != SUCCESS:
            raise DbtError(f"dbt Cloud cannot say what {selector!r} selects: {_why(run)}. See {_address(run)}")
        return frozenset(re.findall(r'\{"unique_id": ?"([^"]+)"\}', _step(run, "ls").get("logs") or ""))

    # A run ------------------------------------------------------------------------------------------------

    def _run(
        self, words: Sequence[str], on_look: Callable[[Run], None] = lambda _: None, cause: str = "lineage_orch"
    ) -> Run:
        """Have a run of the job do one command; returns the run when it has ended.

        Args:
            on_look: is called with the run each time it was looked at, also when it is being cancelled.
            cause: how what dbt Cloud shows as the cause begins.
        """
        # Unlike any other, so that the run is found again when the answer to its start is lost.
        cause = f"{cause} (request {uuid.uuid4().hex[:12]})"
        # Docs would be one more step, of minutes.
        overrides: dict[str, Any] = {"generate_docs_override": False}
        if self.project.passed_target:
            overrides["target_name_override"] = self.project.passed_target
        api = self._api
        run: Run | None = None
        try:
            run = api.start(self._job, [shlex.join(words)], cause, **overrides)
            self._logger.info("Run %s of job %s in dbt Cloud: %s", run["id"], self._job, _address(run))
            for now in self._looks(run["id"], self.patience):
                run = now
                on_look(run)
        except BaseException as error:
            # Ctrl-C, a timeout, Prefect's cancellation, an error of ours. What was not even started says so itself.
            if run is not None or not isinstance(error, DbtError):
                self._cancel(run, cause, on_look)
            raise
        return run

    def _looks(self, run_id: int, patience: float) -> Iterator[Run]:
        """Yield a run each time it is looked at, until it has ended and what it wrote is stored."""
        told = _Told(self._logger)
        last_answer = time.monotonic()
        ended: float | None = None
        while True:
            try:
                run = self._api.run(run_id)
            except DbtCloudUnavailableError as error:
                silent = time.monotonic() - last_answer
                if silent > patience:
                    raise DbtCloudUnavailableError(
                        f"run {run_id} of dbt Cloud is lost sight of, and may be at work still: {error}"
                    ) from None
                told.once("No answer about run %s, which goes on; it is asked for again: %s", run_id, one_line(error))
            else:
                last_answer = time.monotonic()
                told.tell(run)
                yield run
                if run["status"] not in UNFINISHED:
                    ended = ended or last_answer
                    if run.get("artifacts_saved", True) or last_answer - ended > self.settle:
                        return
            time.sleep(self.poll)

    def _cancel(self, run: Run | None, cause: str, on_look: Callable[[Run], None]) -> None:
        """Cancel a run, and wait a little until it has ended; an error of this is said, and not raised."""
        try:
            run = run or self._api.caused_by(self._job, cause)
            if run is None or run["status"] not in UNFINISHED:
                return
            self._api.cancel(run["id"])
            deadline = time.monotonic() + self.grace
            for now in self._looks(run["id"], self.grace):
                on_look(now)
                if time.monotonic() > deadline:
                    return
        except DbtError as error:
            self._logger.warning(
                "The run of job %s in dbt Cloud may be at work still, since it could not be cancelled: %s",
                self._job,
                one_line(error),
            )

    # What a run wrote -------------------------------------------------------------------------------------

    def _results(self, run: Run, step: Mapping[str, Any]) -> Written | None:
        """Return what the step of the build wrote; None while it is not stored."""
        text = self._api.artifact(run["id"], "run_results.json", step.get("index"))
        if text is None and run["status"] not in UNFINISHED:
            text = self._api.artifact(run["id"], "run_results.json")
        # The file of another step looks the same: `dbt docs generate` calls every model a success.
        command = self.settings.dbt_command
        return None if text is None else parse_run_results(text, lambda data: data["args"]["which"] == command)

    def _take_manifest(self, run: Run, command: str | None) -> bool:
        """Make the manifest of a run the project's; whether there is one.

        Args:
            command: of the step whose manifest it is; None for the last.
        """
        step = _step(run, command).get("index") if command else None
        text = self._api.artifact(run["id"], "manifest.json", step)
        if text is None:
            return False
        path = self.project.manifest_path
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(text)
        new.replace(path)
        return True

    def _note_manifest(self, run: Run, inputs: Inputs) -> None:
        """Plan by what the run made of the project from now on: it may have run newer code than was planned by."""
        try:
            if self._take_manifest(run, self.settings.dbt_command):
                self.project.note_manifest(inputs)
        except DbtError as error:
            self._logger.warning("The manifest stays that of before run %s: %s", run["id"], one_line(error))

    def _run_of_this_commit(self) -> Run | None:
        """Return the job's last good run, if it ran what is checked out here; None too where git cannot tell."""
        if self.settings.vars or self.project.passed_target:
            return None
        command = ["git", "rev-parse", "HEAD"]
        try:
            head = subprocess.run(command, cwd=self.project.directory, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        try:
            run = self._api.last_success(self._job) if head.returncode == 0 else None
        except DbtError as error:
            self._logger.debug("The last run of job %s is not known, so dbt parses: %s", self._job, error)
            return None
        return run if run is not None and run.get("git_sha") == head.stdout.strip() else None

    # What it needs ----------------------------------------------------------------------------------------

    @property
    def _job(self) -> int:
        assert self.settings.dbt_cloud_job is not None  # DbtProject.find has looked
        return self.settings.dbt_cloud_job

    @cached_property
    def _cause_of_builds(self) -> str:
        """How the cause of a build's run begins: the same for each build of this ledger, and of no other one."""
        from sqlalchemy import make_url

        url = make_url(self.settings.ledger or self.project.ledger_url)
        machine = platform.node() if url.get_backend_name() == "sqlite" else url.host
        ledger = digest([machine, url.port, url.database, self.project.target, dict(url.query)])
        return f"lineage_orch build {ledger[:12]}"

    @property
    def _logger(self) -> Logger:
        return self.logger or run_logger()

    @cached_property
    def _api(self) -> CloudApi:
        """The account. Asked for late: a load is recorded without it."""
        settings = self.settings
        block = _block(settings.dbt_cloud_credentials) if settings.dbt_cloud_credentials else {}
        account = settings.dbt_cloud_account or block.get("account_id")
        token = settings.dbt_cloud_token.get_secret_value() if settings.dbt_cloud_token else block.get("api_key")
        missing = [name for name, value in (("dbt_cloud_account", account), ("dbt_cloud_token", token)) if not value]
        if not account or not token:
            raise SettingsError(
                f"dbt 'dbt-cloud' needs {' and '.join(missing)}: set {ENV_PREFIX}{missing[0].upper()} in the "
                "environment, or name a DbtCloudCredentials block of Prefect in dbt_cloud_credentials"
            )
        return CloudApi(settings.dbt_cloud_host or block.get("domain") or HOST, account, token, backoff=self.backoff)


class _Told:
    """What the log was told of a run: each line of dbt, and each change of state, once."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._status: Any = None
        self._read: dict[int, int] = {}
        self._is_silent = False

    def tell(self, run: Run) -> None:
        """Log what is new about a run."""
        self._is_silent = False
        status = run.get("status_humanized") or run["status"]
        if status != self._status:
            self._status = status
            self._logger.info("Run %s in dbt Cloud: %s", run["id"], status)
        for step in run.get("run_steps") or ():
            text, index = step.get("logs") or "", step["index"]
            lines = text.splitlines() if step["status"] not in UNFINISHED else text.split("\n")[:-1]
            for line in lines[self._read.get(index, 0) :]:
                if shown := plain(line):
                    self._logger.info("%s", shown)
            self._read[index] = max(len(lines), self._read.get(index, 0))

    def once(self, line: str, *values: Any) -> None:
        """Warn, until something new can be told."""
        if not self._is_silent:
            self._is_silent = True
            self._logger.warning(line, *values)


def _step(run: Run, command: str) -> Mapping[str, Any]:
    """Return the step of a run that does our command; where none is named like it, the run itself, which is its last.

    Clone, profile and `dbt deps` come before it, and are not ours.
    """
    steps = [
        step for step in run.get("run_steps") or () if re.search(rf"\bdbt {command}(?![\w-])", step.get("name") or "")
    ]
    return steps[-1] if steps else {"status": run["status"]}


def _address(run: Run) -> str:
    return str(run.get("href") or f"run {run['id']} in dbt Cloud")


def _why(run: Run) -> str:
    """Return in one line why a run did not do what it should."""
    if run["status"] == CANCELLED:
        return one_line(run.get("status_message") or "it was cancelled in dbt Cloud")
    for step in reversed(run.get("run_steps") or ()):
        if step["status"] not in UNFINISHED and step["status"] != SUCCESS:
            lines = [line for line in map(plain, (step.get("logs") or "").splitlines()) if line]
            name = one_line(step.get("name") or "", most=60)
            return f"{name!r} failed: {one_line(' '.join(lines[-10:]), most=1000) or 'it gave no reason'}"
    return one_line(run.get("status_message") or "it gave no reason")


def _block(name: str) -> Mapping[str, Any]:
    """Return what a ``DbtCloudCredentials`` block holds: ``api_key``, ``account_id``, ``domain``.

    It is read without prefect-dbt, which would bring dbt-core.

    Raises:
        DbtError: Prefect cannot be asked, or has no such block.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            block = client.read_block_document_by_name(name, "dbt-cloud-credentials", include_secrets=True)
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        raise DbtError(
            f"the DbtCloudCredentials block {name!r} (dbt_cloud_credentials) cannot be read from Prefect: "
            f"{one_line(error, most=300)}; look at PREFECT_API_URL, and whether it exists"
        ) from None
    return block.data
