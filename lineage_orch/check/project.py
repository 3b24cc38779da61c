"""What is wrong between a dbt project and the flows that load its sources: found before anything runs.

:func:`check` is pure: a lineage, the producers and, where asked for, deployments go in; findings come out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lineage_orch.check.deployments import Deployment
from lineage_orch.check.findings import Finding, ignore_rules, loaded_elsewhere, without
from lineage_orch.errors import LineageError, PolicyError
from lineage_orch.lineage import Lineage
from lineage_orch.lineage.policy import read_policy
from lineage_orch.loads.declaration import can_mean, is_template
from lineage_orch.loads.discovery import DiscoveryResult, ImportFailure, Producer, short_path
from lineage_orch.loads.following import Following
from lineage_orch.plan import read_promises
from lineage_orch.plan.followers import followers_of
from lineage_orch.text import count, few

if TYPE_CHECKING:
    from lineage_orch.settings import LineageOrchSettings


def check(
    lineage: Lineage,
    producers: Iterable[Producer] | None,
    *,
    failures: Iterable[ImportFailure] = (),
    deployments: Iterable[Deployment] = (),
    ignore: Iterable[str] = (),
    others: OtherProjects | None = None,
    declared: Iterable[Following] = (),
) -> list[Finding]:
    """Return what is wrong, errors first.

    Args:
        producers: all that were found; None if they were not looked for, which leaves out what needs them.
        failures: what could not be imported while looking.
        deployments: those with an active schedule.
        ignore: codes to leave out, or ``code:pattern`` to leave out the subjects whose name or unique_id matches the
            pattern (``source-without-producer:fivetran.*``, shell-style). A source that needs no producer is loaded
            by something else, so what is downstream of it is reached.
        others: what the ledger knows of other projects, which build some of the sources; None: it was not asked.
        declared: what flows with ``@follows`` declare; exposures are of the project itself.

    Raises:
        SettingsError: ``ignore`` holds an unknown code.
    """
    rules = ignore_rules(ignore)
    failed = list(failures)
    elsewhere = loaded_elsewhere(rules, lineage) | (others.sources if others else frozenset())
    # Models of other projects: these are built there, in whatever ledger.
    elsewhere |= {each for each in lineage.sources if not each.startswith("source.")}
    checker = _Checker(lineage, tuple(producers or ()), elsewhere)
    found = [_import_failed(each) for each in failed]
    found += checker.unreadable_policies()
    if others is not None and others.cycle is not None:
        found.append(Finding("project-cycle", others.cycle))
    found += _bad_followers(lineage, tuple(declared))
    if producers is None:
        found.append(
            Finding(
                "no-producers",
                "it is not said where the producers are, so sources and flows were not compared; give --producers, or "
                "set producers = [...] in [tool.lineage_orch] of pyproject.toml (modules, files or folders)",
            )
        )
    else:
        if not checker.producers and not failed:
            found.append(
                Finding(
                    "no-producers",
                    'no producer was found; write @produces_source("source_name.table") above the @flow of each load',
                )
            )
        found += checker.unknown_sources()
        found += checker.sources_loaded_twice()
        found += checker.producers_without_models()
        if not checker.is_of_other_project:  # else all of these would be found, and none would say more
            found += checker.sources_without_producer()
            found += checker.unreached_models()
            found += checker.updates_on_all_never_met()
        found += checker.redundant_schedules(deployments)
    kept = (left for each in found if (left := without(each, rules, lineage)) is not None)
    return sorted(kept, key=lambda each: each.severity != "error")


@dataclass(frozen=True)
class OtherProjects:
    """What the ledger knows of other projects.

    Attributes:
        sources: the sources that they build, by unique_id.
        cycle: what is wrong, if they and this one read each other in a circle.
    """

    sources: frozenset[str]
    cycle: str | None


@dataclass(eq=False)
class _Checker:
    lineage: Lineage
    producers: Sequence[Producer]
    elsewhere: frozenset[str]

    # Names ------------------------------------------------------------------------------------------------

    @cached_property
    def names(self) -> Mapping[str, str]:
        from lineage_orch.reports.status import short_names

        return short_names(self.lineage)

    @cached_property
    def _resolved(self) -> dict[tuple[Producer, str], tuple[str, ...] | LineageError]:
        return {(each, name): self._resolve(name) for each in self.producers for name in each.sources}

    def _resolve(self, name: str) -> tuple[str, ...] | LineageError:
        if is_template(name):
            known = tuple(each for each in self.lineage.sources if can_mean(name, each))
            if known:
                return known
            return LineageError(f"no source in {self.lineage.where} can be meant by {name!r}, whatever its parameters")
        try:
            return self.lineage.resolve_sources(name)
        except LineageError as error:
            return error

    @cached_property
    def _spellings(self) -> dict[str, tuple[str, str, str]]:
        return {
            each.unique_id: (
                f"{each.source_name}.{each.table}",
                f"{each.package}.{each.source_name}.{each.table}",
                each.unique_id,
            )
            for each in self.lineage.sources.values()
        }

    @cached_property
    def claims(self) -> Mapping[str, list[Producer]]:
        """The producers of each source that has one; one with ``{parameters}`` may load all that it could mean."""
        claims: dict[str, list[Producer]] = defaultdict(list)
        for (producer, _), sources in self._resolved.items():
            if not isinstance(sources, LineageError):
                for source in sources:
                    if producer not in claims[source]:
                        claims[source].append(producer)
        return claims

    @cached_property
    def reached(self) -> frozenset[str]:
        return self.lineage.downstream(*self.claims) if self.claims else frozenset()

    @cached_property
    def moving(self) -> frozenset[str]:
        """What a load reaches, of a producer or of something else."""
        return self.reached | (self.lineage.downstream(*self.elsewhere) if self.elsewhere else frozenset())

    @property
    def is_of_other_project(self) -> bool:
        return bool(self._resolved) and not self.claims

    # Errors -----------------------------------------------------------------------------------------------

    def unknown_sources(self) -> Iterator[Finding]:
        unknown = {key: each for key, each in self._resolved.items() if isinstance(each, LineageError)}
        if self.is_of_other_project and len(unknown) > 1:
            project = f" of the dbt project {self.lineage.project_name!r}" if self.lineage.project_name else ""
            yield Finding(
                "other-project",
                f"none of the {len(unknown)} sources that the producers name is in {self.lineage.where}{project}; is "
                "it the manifest of another project? Correct project_dir or manifest",
                subjects=tuple(dict.fromkeys(name for _, name in unknown)),
            )
        for (producer, name), error in unknown.items():
            yield Finding(
                "unknown-source",
                f"{producer} declares {name!r}: {error}{'' if str(error).endswith('?') else '.'} Correct its "
                "@produces_source, or add the source to the project (`lineage-orch stub-sources` writes the entry)",
                where=producer.where,
                subjects=(name,),
            )

    def unreadable_policies(self) -> Iterator[Finding]:
        unreadable = [
            (node, str(policy)) for node, policy in _policies(self.lineage) if isinstance(policy, PolicyError)
        ]
        # What is wrong with the whole block is wrong for both.
        for each, why in dict.fromkeys([*unreadable, *read_promises(self.lineage).unreadable.items()]):
            file = self.lineage.nodes[each].original_file_path if each in self.lineage.nodes else None
            yield Finding("unreadable-policy", why, where=file or None, subjects=(each,))

    # Warnings ---------------------------------------------------------------------------------------------

    def sources_without_producer(self) -> Iterator[Finding]:
        for source in sorted(self.lineage.sources.keys() - self.claims.keys() - self.elsewhere):
            models = sum(each in self.lineage.nodes for each in self.lineage.downstream(source))
            below = f"{count(models, 'node')} downstream of it" if models else "nothing is downstream of it"
            name = self.names[source]
            yield Finding(
                "source-without-producer",
                f'no producer loads the source {name} ({below}); write @produces_source("{name}") above the @flow that '
                f"loads it; if no flow does, call `lineage-orch record {name}` after its load, or have `lineage-orch "
                "observe` look",
                subjects=(source,),
            )

    def sources_loaded_twice(self) -> Iterator[Finding]:
        for source, claiming in self.claims.items():
            certain = [
                each
                for each in claiming
                if not each.shared
                and any(source in _ids(self._resolved[each, name]) for name in each.sources if not is_template(name))
            ]
            if len(claiming) > 1 and certain:
                others = " and ".join(f"{each} ({each.where})" for each in claiming)
                yield Finding(
                    "source-loaded-twice",
                    f"the source {self.names[source]} is loaded by {others}, and its models are built after each of "
                    "them; take it from one, or write shared=True in the @produces_source of each",
                    where=certain[-1].where,
                    subjects=(source,),
                )

    def producers_without_models(self) -> Iterator[Finding]:
        for producer in self.producers:
            sources = [each for name in producer.sources for each in _ids(self._resolved[producer, name])]
            if sources and not any(each in self.lineage.nodes for each in self.lineage.downstream(*sources)):
                loaded = ", ".join(self.names[each] for each in sources)
                yield Finding(
                    "producer-without-models",
                    f"nothing in the dbt project is downstream of {loaded}, so a load by {producer} builds nothing; "
                    "read the source in a model, or drop the @produces_source",
                    where=producer.where,
                    subjects=tuple(sources),
                )

    def unreached_models(self) -> Iterator[Finding]:
        missed = sorted(self._loadable - self.moving)
        if missed:
            shown = few((self.names[each] for each in missed), most=5)
            total = len(self._loadable)
            yield Finding(
                "unreached-models",
                f"no producer's load builds {shown} ({len(missed)} of {total} nodes); declare the producers of the "
                "sources above, or build these on a schedule",
                subjects=tuple(missed),
            )

    def updates_on_all_never_met(self) -> Iterator[Finding]:
        for node, policy in _policies(self.lineage):
            if isinstance(policy, PolicyError) or policy != "all" or node in self.moving:
                continue
            yield Finding(
                "updates-on-all-never-met",
                f"{self.names[node]} waits for new data of all its parents (updates_on: all), and no producer moves "
                "any of them, so no load ever builds it; declare the producers of the sources above it",
                where=self.lineage.nodes[node].original_file_path or None,
                subjects=(node,),
            )

    # Schedules --------------------------------------------------------------------------------------------

    def redundant_schedules(self, deployments: Iterable[Deployment]) -> Iterator[Finding]:
        for deployment in deployments:
            if not deployment.schedules or not deployment.runs_dbt:
                continue
            named = self._named_in(deployment.parameters)
            covered = sorted((named or self.lineage.nodes.keys()) & self.reached)
            if not covered:
                continue
            shown = few(self.names[each] for each in covered)
            is_needless = self.reached.issuperset(named or self._loadable)
            fix = "take its schedule away" if is_needless else "leave them out of it"
            yield Finding(
                "redundant-schedule",
                f"the deployment {deployment.name} builds {shown} on a schedule "
                f"({', '.join(deployment.schedules)}), and so does every load of their sources; {fix}",
                subjects=(deployment.name,),
            )

    @property
    def _loadable(self) -> frozenset[str]:
        """What a load can build at all: seeds read no source."""
        return frozenset(each for each, node in self.lineage.nodes.items() if node.resource_type != "seed")

    def _named_in(self, parameters: Mapping[str, Any]) -> frozenset[str] | None:
        """Return the nodes that the parameters of a deployment name, or None if they name none: it builds all."""
        words = set(re.split(r"[\s,+@:\"'\[\]{}()]+", " ".join(_strings(parameters))))
        named = {node for node in self.lineage.nodes if words & {self.names[node], node, self.lineage.nodes[node].name}}
        below = [
            source for source, spelled in self._spellings.items() if words & {*spelled, spelled[0].partition(".")[0]}
        ]
        if below:
            named |= self.lineage.downstream(*below) & self.lineage.nodes.keys()
        return frozenset(named) or None


def _ids(sources: tuple[str, ...] | LineageError) -> tuple[str, ...]:
    return () if isinstance(sources, LineageError) else sources


def _policies(lineage: Lineage) -> Iterator[tuple[str, str | PolicyError]]:
    """Yield, for each node with a policy, its ``updates_on``, or why the policy cannot be read."""
    for node, freshness, state in lineage.freshness_configs():
        try:
            yield node, read_policy(node, freshness, state).updates_on
        except PolicyError as error:
            yield node, error


def _bad_followers(lineage: Lineage, declared: Sequence[Following]) -> Iterator[Finding]:
    where = {f"follower.{each.name}": each.where for each in declared}
    for each in followers_of(lineage, declared):
        if each.error is not None:
            file, _, line = where.get(each.unique_id, "").rpartition(":")
            place = f"{short_path(file)}:{line}" if file else None
            yield Finding("bad-follower", each.error, place, (each.unique_id,))


def _import_failed(failure: ImportFailure) -> Finding:
    place = failure.place
    shown = f"{place}: " if failure.where is None or not failure.where.startswith(place) else ""
    return Finding("import-failed", f"{shown}{failure.why}", failure.where, (place,))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


# A whole project --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """A dbt project and its producers, read from disk; ``found`` is None if it is not said where to look.

    ``others``: what the ledger knows of other projects; None: it was not asked.
    """

    lineage: Lineage
    found: DiscoveryResult | None
    others: OtherProjects | None = None

    def check(self, *, deployments: Iterable[Deployment] = (), ignore: Iterable[str] = ()) -> list[Finding]:
        """Return what is wrong; see :func:`check`."""
        failures = self.found.failures if self.found else ()
        producers = self.found.producers if self.found else None
        declared = self.found.followers if self.found else ()
        return check(
            self.lineage,
            producers,
            failures=failures,
            deployments=deployments,
            ignore=ignore,
            declared=declared,
            others=self.others,
        )


def read_project(settings: LineageOrchSettings, *, lineage: Lineage | None = None) -> Project:
    """Read the project that the settings name: its manifest, parsed anew if stale, and its ``producers``.

    Raises:
        SettingsError: there is no dbt project.
        DbtError: its profile cannot be read, or it does not parse.
        ManifestError: its manifest cannot be read.
    """
    from lineage_orch.loads.discovery import find_producers

    if lineage is None and settings.manifest is not None:
        lineage = Lineage.from_manifest(settings.manifest)
    elif lineage is None:
        from lineage_orch.orchestrator import Orchestrator

        with Orchestrator(settings, ledger="sqlite://") as orchestrator:
            lineage = orchestrator.lineage
    return Project(lineage, find_producers(settings.producers) if settings.producers else None)


def ask_others(settings: LineageOrchSettings, lineage: Lineage) -> OtherProjects | None:
    """Ask the ledger of the settings for other projects; None where there is no ledger yet.

    Raises:
        SettingsError: there is no dbt project.
        DbtError: its profile cannot be read.
        LedgerError: the ledger cannot be read.
    """
    from lineage_orch.builds.elsewhere import built_elsewhere, check_cycle
    from lineage_orch.dbt.project import DbtProject

    project = DbtProject.find(settings)
    if not project.has_ledger(settings.ledger):
        return None
    with project.open_ledger(settings.ledger) as ledger:
        sources = frozenset(built_elsewhere(ledger, lineage))
        try:
            check_cycle(ledger, lineage)
        except LineageError as error:
            return OtherProjects(sources, str(error))
    return OtherProjects(sources, None)
