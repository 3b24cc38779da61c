"""The lineage of a project as of now: its manifest is made anew when it is stale, and read when it changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineage_orch.dbt.compat import LOG
from lineage_orch.dbt.project import DbtProject
from lineage_orch.errors import DbtMissingError, ManifestError
from lineage_orch.lineage import Lineage


class CurrentLineage:
    """Reads a project's lineage, each state of its manifest once.

    Args:
        manifest: a manifest to use as it is, in place of the project's own.
        parse: has dbt write the project's manifest; see ``DbtEngine.parse``.
        progress: takes a line for people when the project is parsed, which may take a while.
    """

    def __init__(
        self,
        project: DbtProject,
        manifest: Path | None,
        parse: Callable[[], Any],
        *,
        progress: Callable[[str], Any] = lambda _: None,
    ) -> None:
        self.path = manifest or project.manifest_path
        """The manifest that is used."""
        self.progress = progress
        self._project = project
        self._is_given = manifest is not None
        self._parse = parse
        self._read: tuple[int, Lineage] | None = None

    def now(self, *, parse: bool = False) -> Lineage:
        """Return the lineage as of now; a manifest that is not what dbt would make now is made anew.

        Args:
            parse: make it anew in any case, unless it was given.

        Raises:
            ManifestError: the manifest cannot be read.
            DbtError: the project does not parse.
        """
        if not self._is_given and (reason := "asked for" if parse else self._project.stale_because()):
            self._parse_once(reason, asked_for=parse)
        try:
            return self.as_read()
        except ManifestError:
            if self._is_given:
                raise
        # Whoever wrote it was killed, say: what was made of the project can be made of it again.
        self._parse_once("its manifest cannot be read", asked_for=True)
        return self.as_read()

    def for_names(self) -> Lineage:
        """Return the lineage as it was last parsed: a load that only reports what it loaded need not parse anew."""
        if not self._is_given and not self.path.exists():
            return self.now()
        return self.as_read()

    def as_read(self) -> Lineage:
        """Read the manifest unless this very file was read before; a reader may meet dbt while it writes it."""
        for patience in (0.1, 0.3, 0.6, 1.0, 0.0):
            try:
                version = self.path.stat().st_mtime_ns
                if self._read is None or self._read[0] != version:
                    self._read = (version, self._lineage())
            except (ManifestError, FileNotFoundError):
                if patience and not self._is_given and self._is_being_written():
                    time.sleep(patience)
                    continue
                self._read = (0, self._lineage())
            return self._read[1]
        raise AssertionError("unreachable")

    def _lineage(self) -> Lineage:
        return Lineage.from_manifest(self.path, vars=self._project.vars_of_code)

    def _parse_once(self, reason: str, *, asked_for: bool) -> None:
        from filelock import FileLock

        # Processes that find it stale at the same time parse one after the other, and all but the first find
        # that there is nothing left to do.
        self._project.state_dir.mkdir(exist_ok=True)
        with FileLock(self._project.state_dir / "parse.lock"):
            again = reason if asked_for else self._project.stale_because()
            if again is None:
                return
            self._say(f"Parsing the dbt project ({again}) ...")
            inputs = self._project.inputs()
            try:
                noted = self._parse()
            except DbtMissingError:
                if not self.path.exists():
                    raise
                self._say(f"The manifest {self.path} is used as it is ({again}): there is no dbt here to parse with.")
                return
            if noted is None:
                self._project.note_manifest(inputs)

    def _say(self, line: str) -> None:
        LOG.info("%s", line)
        self.progress(line)

    def _is_being_written(self) -> bool:
        try:
            return time.time() - self.path.stat().st_mtime < 5  # seconds
        except FileNotFoundError:
            return False
