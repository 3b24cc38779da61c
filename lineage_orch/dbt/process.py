"""dbt as a process of its own: dbt-core 1.8 to 1.12 of any virtual environment, and dbt 2."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from lineage_orch.dbt.child import Child
from lineage_orch.dbt.command import check_environment, selection
from lineage_orch.dbt.compat import LOG, PARTIAL_PARSE
from lineage_orch.dbt.engine import FAILED, DbtEngine, OnResult, OnStart, Outcome, Result
from lineage_orch.dbt.executable import found_executable
from lineage_orch.dbt.fingerprint import as_show, counted_as_changed, inline_queries, read_answer
from lineage_orch.dbt.freshness import RUNTIME_ERROR, Freshness, Seen, parse_sources_json
from lineage_orch.dbt.log_lines import LogReader
from lineage_orch.dbt.profile import profiles_for_dbt
from lineage_orch.dbt.project import DbtProject
from lineage_orch.dbt.relations import MAKE_A_RELATION
from lineage_orch.dbt.run_results import final_results, read_run_results
from lineage_orch.dbt.task_runs import NodeTaskRuns, flow_run_id, run_logger
from lineage_orch.errors import DbtError, DbtMissingError
from lineage_orch.lineage import Lineage
from lineage_orch.loads.completion import Logger
from lineage_orch.settings import LineageOrchSettings
from lineage_orch.text import listed, one_line

# `debug`: dbt 1 says there how each node ended, skipped ones too. All are flags of dbt 1.8 as of dbt 2, and win over
# the environment and dbt_project.yml.
_LOG_FLAGS = ("--log-format", "json", "--log-level", "debug", "--no-quiet", "--write-json")
# Asks dbt's own adapter, which lists each schema once and keeps it, so that no SQL of ours is needed: the code that
# dbt makes of this is the answer. (`adapter.get_relation` is the one way to ask that dbt 1 and dbt 2 both have.)
_MISSING = """-- {% set missing = [] %}{% if execute %}{% for node in graph.nodes.values() %}
{%- if (node.resource_type == "seed" or node.config.materialized in MATERIALIZED)
  and adapter.get_relation(database=node.database, schema=node.schema, identifier=node.alias) is none %}
{%- do missing.append(node.unique_id) %}{% endif %}{% endfor %}{% endif %}{{ tojson(missing) }}
select 1 as one""".replace("MATERIALIZED", str(tuple(sorted(MAKE_A_RELATION))))
# Where so many sources in a row cannot be asked, and none can, the fault is not theirs: the warehouse is down, say.
_ALL_FAIL = 5
_VERSION = re.compile(r"(?:installed:|dbt-fusion|dbt-core|dbt)\s+v?(\d+\.\d+\S*)")


@dataclass(eq=False, repr=False)
class ProcessDbt(DbtEngine):
    """dbt as a process: its log is read line by line, and each node's end is passed on as it happens.

    Attributes:
        settings: the dbt command, flags and vars.
        executable: dbt's path, or a name on PATH.
        logger: takes dbt's lines at their levels. Default: that of the Prefect run, in one; else ``lineage_orch.dbt``.
        silence: after how many seconds without a line of dbt that is said. dbt says nothing while the warehouse runs
            a long query, so it is not stopped for it.
        grace: how many seconds dbt has to end when it is cancelled, before it is killed.
    """

    project: DbtProject
    settings: LineageOrchSettings
    executable: str = "dbt"
    _: KW_ONLY
    logger: Logger | None = None
    silence: float = 600.0
    grace: float = 30.0

    def version(self) -> str:
        """Return dbt's version, such as ``1.11.16`` or ``2.0.9``.

        Raises:
            DbtError: it cannot be run, or is no dbt.
        """
        try:
            ran = subprocess.run([self._found(), "--version"], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DbtError(f"`{self.executable} --version` did not answer: {error}") from None
        found = _VERSION.search(ran.stdout)
        if found is None:
            raise DbtError(f"`{self.executable} --version` names no version of dbt: {one_line(ran.stdout, most=200)}")
        return found[1]

    def parse(self) -> str | None:
        """Write the project's manifest anew; returns the id of the dbt invocation."""
        log, code = self._run(["parse", *self.project.scope_args])
        if code != 0:
            raise DbtError(
                f"the dbt project in {self.project.directory} does not parse: {_why(log, code)}. Try `dbt parse` there"
            )
        return log.invocation_id or None

    def build(
        self, select: Sequence[str], exclude: Sequence[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        """Build a selection."""
        check_environment(self.settings.dbt_flags)
        command, scope = self.settings.dbt_command, self.project.scope_args
        args = [*selection(self.settings, select, exclude), *scope, *flags, *self.settings.dbt_flags]
        log, code = self._run(args, on_result)
        written = read_run_results(self.project.target_path / "run_results.json", log.invocation_id)
        results = final_results(log, written)
        if not _ran(code, results):
            told = f"; what finished before is recorded ({len(log.results)} results)" if log.results else ""
            raise DbtError(
                f"`dbt {command}` did not run to its end in {self.project.directory}: {_why(log, code)}{told}"
            )
        fail_fast = log.cancelled or (written is not None and written.fail_fast)
        return Outcome(tuple(results.values()), cut_short=code != 0 and fail_fast)

    def command(
        self, args: Sequence[str], on_start: OnStart, on_result: OnResult, *, echo: Logger
    ) -> tuple[int, Outcome]:
        """Run a command that a person typed; returns its exit code (of a signal: 128 and its number), and what it did.

        Args:
            args: the command and its flags, without the places of the project.
            on_start: told of each node and test that begins; what it raises stops dbt.
            on_result: told of how each ended.
            echo: takes dbt's lines at their levels.
        """
        log, code = self._run([*args, *self.project.scope_args], on_result, on_start=on_start, echo=echo)
        written = read_run_results(self.project.target_path / "run_results.json", log.invocation_id)
        fail_fast = log.cancelled or (written is not None and written.fail_fast)
        cut_short = code not in (0, 1) or (code == 1 and fail_fast)
        return (128 - code if code < 0 else code), Outcome(tuple(final_results(log, written).values()), cut_short)

    def pass_on(self, args: Sequence[str]) -> int:
        """Run a command that builds nothing, as a person typed it; its output is dbt's own. Returns its exit code."""
        project = self.project
        with profiles_for_dbt(project.profiles_dir, project.directory) as profiles_dir:
            # Not as options, which some commands do not know.
            places = {"DBT_PROJECT_DIR": project.directory, "DBT_PROFILES_DIR": profiles_dir}
            places |= {"DBT_TARGET_PATH": project.target_path}
            env = {**os.environ, **{name: str(path) for name, path in places.items()}}
            if project.passed_target:
                env["DBT_TARGET"] = project.passed_target
            code = subprocess.run([self._found(), *args, *project.vars_args], env=env, check=False).returncode
        return 128 - code if code < 0 else code

    def ls(self, selector: str) -> frozenset[str]:
        """Return what ``dbt ls`` says of a selector."""
        log, code, _ = self._ask(["ls", "--select", selector, "--output", "json", "--output-keys", "unique_id"])
        if code != 0:
            raise DbtError(f"dbt cannot say what {selector!r} selects: {_why(log, code)}")
        return frozenset(json.loads(each)["unique_id"] for each in log.answers if each.startswith("{"))

    def missing_relations(self, lineage: Lineage) -> frozenset[str] | None:
        """Return the nodes whose relation is not in the warehouse, as dbt's adapter lists it; None if it cannot tell.

        That takes a process: about 0.1 s with dbt 2, and 2 to 4 s with dbt 1.
        """
        log, code, _ = self._ask(["compile", "--inline", _MISSING])
        try:
            missing = json.loads(log.answers[0].partition("\n")[0].removeprefix("--"))
        except (IndexError, ValueError):
            LOG.warning("Which relations are in the warehouse is not known: %s", _why(log, code))
            return None
        return frozenset(missing) & lineage.nodes.keys()

    def contents(self, lineage: Lineage, nodes: Mapping[str, Collection[str]]) -> Mapping[str, str]:
        """Return what ``dbt show`` finds in the tables of these nodes; that takes a process."""
        found: dict[str, str] = {}
        for some, query in inline_queries(lineage, nodes):
            log, code, _ = self._ask(as_show(query))
            if code == 0 and log.answers:
                found |= read_answer(lineage, some, log.answers[-1])
            else:
                LOG.warning("%s: %s", counted_as_changed(some), _why(log, code))
        return found

    def source_freshness(self, lineage: Lineage, sources: Sequence[str]) -> Freshness:
        """Return when these sources were loaded last.

        dbt 2 says nothing of any source where it fails on one, so it is then asked for ever fewer of them.
        """
        seen: dict[str, Seen] = {}
        errors: dict[str, str] = {}
        waiting = [list(sources)]
        while waiting:
            some = waiting.pop()
            select = [lineage.selectors.source(each) for each in some]
            log, code, written = self._ask(["source", "freshness", "--select", *select], "sources.json")
            if written:
                found = parse_sources_json(written)
                seen.update(found.seen)
                said = {each: end.message for each, end in log.results.items() if end.status == RUNTIME_ERROR}
                errors.update({**found.errors, **{each: one_line(message) for each, message in said.items()}})
            elif len(some) > 1 and log.major >= 2:
                half = len(some) // 2
                waiting += [some[half:], some[:half]]
            else:
                errors.update(dict.fromkeys(some, _why(log, code)))
                if log.major < 2 or (not seen and len(errors) >= _ALL_FAIL):
                    raise DbtError(
                        f"`dbt source freshness` could not run in {self.project.directory}: {_why(log, code)}"
                    )
        return Freshness(seen, errors)

    def _ask(self, args: Sequence[str], artifact: str = "") -> tuple[LogReader, int, bytes]:
        """Run a command that only asks: its log is for those who debug, and its artifacts are thrown away.

        Returns:
            what it said, its exit code, and what it wrote into the artifact of that name, if anything.
        """
        with tempfile.TemporaryDirectory(prefix="lineage_orch-") as folder:
            log, code = self._run([*args, *self.project.scope_args], target_path=Path(folder))
            written = Path(folder, artifact)
            return log, code, written.read_bytes() if artifact and written.is_file() else b""

    def _found(self) -> str:
        found = found_executable(self.executable)
        if found is None:
            raise DbtMissingError(
                f"there is no dbt: {self.executable!r} is no executable, nor a command on PATH; install one, or set "
                "`dbt` (LINEAGE_ORCH_DBT) to its path"
            )
        return found

    def _run(
        self,
        args: Sequence[str],
        on_result: OnResult | None = None,
        *,
        target_path: Path | None = None,
        on_start: OnStart | None = None,
        echo: Logger | None = None,
    ) -> tuple[LogReader, int]:
        """Run dbt to its end; returns what it said, and its exit code (of a signal: minus its number).

        Args:
            on_result: told of each node's end; None for a command that builds nothing.
            target_path: where its artifacts go, in place of the project's.
            on_start: told of each node's begin.
            echo: takes dbt's lines, in place of the logger.
        """
        project = self.project
        log = LogReader()
        logger = echo or self.logger or run_logger()
        loudest = logging.DEBUG if target_path else logging.CRITICAL
        inputs = project.inputs()
        with profiles_for_dbt(project.profiles_dir, project.directory) as profiles_dir:
            places = ["--project-dir", str(project.directory), "--profiles-dir", str(profiles_dir)]
            places += ["--target-path", str(target_path or project.target_path)]
            # Only dbt 1 has one, and takes it from there even if its artifacts go elsewhere.
            env = {"DBT_PARTIAL_PARSE_FILE_PATH": str(project.target_path / PARTIAL_PARSE)} if target_path else {}
            try:
                # Where dbt in this process would be, too: a relative path in profiles.yml counts from there.
                child = Child([self._found(), *args, *places, *_LOG_FLAGS], cwd=Path.cwd(), grace=self.grace, env=env)
            except OSError as error:
                raise DbtError(f"{self.executable} cannot be run: {error}") from None
            with child, NodeTaskRuns(flow_run_id() if on_result else None, logger) as shown:
                self._follow(child, log, logger, on_start or _ignore, on_result or _ignore, shown, loudest)
                code = child.wait()
        if log.invocation_id and target_path is None:
            # The manifest was made from what the project was when dbt began.
            project.note_manifest(inputs, made_by=log.invocation_id)
        return log, code

    def _follow(
        self,
        child: Child,
        log: LogReader,
        logger: Logger,
        on_start: OnStart,
        on_result: OnResult,
        shown: NodeTaskRuns,
        loudest: int,
    ) -> None:
        """Pass on all that dbt says until it has ended."""
        try:
            for text in child.lines(silence=self.silence):
                if text is None:
                    _say_silence(logger, self.silence)
                elif (line := log.read(text)) is not None:
                    if line.text:
                        logger.log(min(line.level, loudest), "%s", line.text)
                    if line.started is not None:
                        on_start(line.started)
                        shown.started(line.started)
                    if line.ended is not None:
                        shown.ended(line.ended)
                        on_result(line.ended)
        except BaseException:
            # Ctrl-C, a timeout, Prefect's cancellation, an error of ours. What succeeds until dbt is stopped counts;
            # what is stopped in the middle has not failed.
            for text in child.stop():
                line = log.read(text)
                if line is not None and line.ended is not None and line.ended.status not in FAILED:
                    on_result(line.ended)
            raise


def _ran(code: int, results: Mapping[str, Result]) -> bool:
    """Whether a command came to its end, be it with failures.

    dbt 1 ends with 1 where a node failed, and with 2 where it could not run or was interrupted; dbt 2 with 1 for
    all of these.
    """
    return code == 0 or (code == 1 and any(each.status in FAILED for each in results.values()))


def _why(log: LogReader, code: int) -> str:
    """Return in one line why a command did not do what it should."""
    if code < 0:
        return f"it was ended by {_signal_name(-code)}"
    said = log.errors or list(log.unread)[-5:]
    why = listed(dict.fromkeys(one_line(each, most=500) for each in said))
    return why or ("it was interrupted" if log.cancelled else f"it ended with code {code} and gave no reason")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _ignore(_: Result | str) -> None:
    """Take no notice of a node's begin or end."""


def _say_silence(logger: Logger, silence: float) -> None:
    logger.warning(
        "dbt has said nothing for %.0f s. It may wait for a long query, or for a lock in the warehouse; cancel the "
        "run to stop it.",
        silence,
    )
