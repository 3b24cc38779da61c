"""Plain words: times for people, reasons in a few words, and explanations in sentences."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lineage_orch.ledger.snapshot import EVERYTHING, Pause
from lineage_orch.lineage.policy import DEFAULT_POLICY, Policy
from lineage_orch.plan import Held, Reason
from lineage_orch.reports.explanation import BuiltBy, Explanation, PartChange, SourceView
from lineage_orch.text import count, listed, roughly, span

if TYPE_CHECKING:
    from lineage_orch.ledger import Failure
    from lineage_orch.reports.freshness import Promised
    from lineage_orch.reports.status import SourceStatus, Status

Names = Mapping[str, str]

STATES = {
    "fresh": "newer than this node",
    "in_plan": "in the plan",
    "held": "held",
    "not_newer": "not newer",
    "not_moving": "not moving",
    "paused": "paused",
    "unchanged": "rebuilt, same content",
    "up_to_date": "up to date",
    "never_built": "never built",
    "due": "due",
    "perhaps": "perhaps due",
    "passed_through": "passed through",
    "failing": "failing",
    "tests_only": "only to be tested",
    "not_built": "not built here",
}


def short_name(unique_id: str, names: Mapping[str, str]) -> str:
    """Return what people call a resource of any kind; a test, say, is in no table of names, and keeps its own."""
    known = names.get(unique_id)
    if known is not None:
        return known
    kind, _, rest = unique_id.partition(".")
    if kind == "follower":
        return rest  # the flow's name, whatever stands in it
    name = rest.partition(".")[2]
    # The hash at the end of a test's id says nothing to people.
    return (name.rpartition(".")[0] if kind == "test" else "") or name or unique_id


def named(ids: Iterable[str], names: Names, *, most: int = 3) -> str:
    """Return what people call some resources, listed."""
    return listed((short_name(each, names) for each in ids), most=most)


def when(moment: datetime | None) -> str:
    """Return a time to the minute, in UTC; ``-`` for none."""
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def until(moment: datetime | None, now: datetime) -> str:
    """Return a time that is to come and how far it is: ``14:05 UTC (in 12 min)``; ``-`` for none."""
    if moment is None:
        return "-"
    moment = moment.astimezone(UTC)
    seconds = (moment - now).total_seconds()
    minutes = -int(-seconds // 60)
    if seconds <= 0:
        distance = "now"
    elif minutes < 60:
        distance = f"in {minutes} min"
    elif minutes < 48 * 60:
        distance = f"in {minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    else:
        distance = f"in {minutes // (24 * 60)} days"
    return f"{_time_of(moment, now)} ({distance})"


def promise_detail(row: Promised, names: Names) -> str:
    """Return in a few words how a promise is kept: by how much it is late, or will be, and what waits."""
    parts = []
    if row.late_by is not None:
        parts.append(f"late by {roughly(row.late_by.total_seconds())}")
    if row.will_be_late_by is not None:
        parts.append(f"will be late by {roughly(row.will_be_late_by.total_seconds())}")
    if row.waits_for:
        parts.append(f"has not taken in {named(row.waits_for, names)}")
    if row.state == "unknown" and row.kind == "source":
        parts.append("no load of it is known")
    return "; ".join(parts)


def late_line(row: Promised, names: Names) -> str:
    """Return one line for people on what became late."""
    assert row.age is not None
    promise = row.promise
    limit = promise.error_after if row.state == "error" else promise.warn_after
    age, at_most = roughly(row.age.total_seconds()), span(limit or timedelta(0))
    if row.kind == "source":
        return f"Late: no load of the source {row.name} for {age}, and it promises one in {at_most}."
    waits = named(row.waits_for, names)
    return f"Late: {row.name} has not taken in a load of {waits} that is {age} old, and it promises to in {at_most}."


def recovered_line(row: Promised) -> str:
    """Return one line for people on what is late no more."""
    if row.kind == "source":
        return f"Recovered: the source {row.name} was loaded again."
    return f"Recovered: {row.name} has taken in what was loaded."


def held_reason(held: Held, names: Names) -> str:
    """Return in a few words why a node is held."""
    waiting = named(held.waiting_for, names)
    detail = f": {held.detail}" if held.detail else ""
    return {
        "updates_on_all": f"waits for new data of {waiting} (updates_on: all)",
        "build_after": "freshness.build_after",
        "lag_tolerance": "state.lag_tolerance",
        "load_running": f"waits for the load of {waiting}, which is running or about to",
        "first_load": f"waits for the first load of {waiting}",
        "failing": f"waits for {waiting}, which failed" if waiting else f"failed before{detail}",
        "bad_config": f"waits for {waiting}, whose config cannot be read" if waiting else held.detail or "its config",
        "failed": f"waits for {waiting}, which failed" if waiting else "failed",
        "running": "its run goes on",
        "paused": f"waits for {waiting}, paused" if waiting else f"is paused{detail}",
    }[held.reason]


def held_until(held: Held, names: Names, now: datetime) -> str:
    """Return until when a node is held; where no time alone will do, why."""
    return f"until {until(held.until, now)}" if held.until else held_reason(held, names)


def pauses_line(pauses: Mapping[str, Pause], names: Names, now: datetime) -> str | None:
    """Return what is paused, in a line; None for nothing."""
    if not pauses:
        return None
    alike: dict[str, list[str]] = {}
    for name, each in sorted(pauses.items()):
        said = "all nodes" if name == EVERYTHING else short_name(name, names)
        alike.setdefault(paused(each, now), []).append(said)
    what = "; ".join(f"{listed(those, most=8)} {how}" for how, those in alike.items())
    return f"Paused: {what}. `lineage-orch resume` lets them go on."


def paused(pause: Pause, now: datetime) -> str:
    """Return since when, until when and why something is paused: ``since 14:05 UTC (disk full)``."""
    end = f", until {until(pause.until, now)}" if pause.until else ""
    return f"since {_time_of(pause.since, now)}{end}" + (f" ({pause.reason})" if pause.reason else "")


# A build that is due for one of these is noted in the ledger as asked for, when it begins.
_SAY_ENOUGH = {"identity", "missing_relation"}


def short_reasons(reasons: Iterable[Reason], because: Iterable[str], names: Names) -> str:
    """Return in a few words why a node is stale: the sources whose updates reach it, and whatever else there is."""
    words = [short_name(each, names) for each in sorted(because)]
    reasons = list(reasons)
    kinds = {each.kind for each in reasons}
    for reason in reasons:
        readers = named(reason.subjects, names)
        words += {
            "identity": ["changed code"],
            "missing_relation": ["its relation is gone"],
            "asked": [] if kinds & _SAY_ENOUGH else ["asked for, or not built well"],
            "prerequisite": [f"needed by {readers}"],
        }.get(reason.kind, [])
    return listed(words) or "newer parents"


def explanation_lines(why: Explanation, now: datetime | None = None) -> list[str]:
    """Return an explanation in plain words, the verdict first; times are UTC.

    Args:
        now: what "in 12 min" counts from; by default the clock on the wall.
    """
    now = (now or datetime.now(UTC)).astimezone(UTC)
    name = why.names[why.node]
    if why.verdict == "build":
        first = f"{name} will build: {_why_due(why)}."
    elif why.verdict == "tests_only":
        first = f"{name} will be tested, and not built: {_why_only_tested(why)}."
    elif why.verdict == "perhaps":
        above = why.builds_when.waiting_for
        builds = listed(why.names[each] for each in above)
        first = f"{name} perhaps builds: {builds} {_s(above, 'build')} first, and it if that comes out changed."
    elif why.verdict == "not_built":
        first = f"{name} is stale, and dbt does not build it as it is called here: {_why_due(why)}."
    elif why.verdict == "passed_through":
        first = f"{name} is passed through, a view that new data flows through without a build: {_why_due(why)}."
    elif why.held is not None:
        first = f"{name} {_why_held(why, why.held, now)}."
    else:
        first = f"{name} {_why_not(why, now)}."
    lines = [first]
    if why.verdict == "held" and (waiting := [each for each in why.sources if each.state == "pending"]):
        lines.append(f"Waiting for it: {_loads(waiting, why.names)}.")
    if why.batches is not None:
        lines.append(f"What is new for it lies in {why.batches}.")
    if (next_step := _next_step(why, now)) is not None:
        lines.append(next_step)
    if why.failure is not None and (why.held is None or why.held.reason != "failing" or why.held.waiting_for):
        lines.append(f"{_start(_failed(why.failure, now))}: {why.failure.message}")
    lines += _pauses(why, now)
    if why.code_changed and not any(each.kind == "identity" for each in why.reasons):
        lines.append(
            f"{_start(_what_changed(why, why.node))} since its last good build, which alone does not build it here."
        )
    shown = _shown_sources(why)
    lines += [f"Path: {' -> '.join(why.names[each] for each in source.path)}" for source in shown]
    lines += [
        built_by_line(why.names[each.unique_id], why.built_by[each.unique_id])
        for each in shown
        if each.unique_id in why.built_by
    ]
    if why.policy != DEFAULT_POLICY:
        lines.append(f"Policy: {_policy(why.policy)}")
    if why.parents:
        parents = (
            f"{why.names[each.unique_id]} ({STATES[each.state]}, {_tick(each.tick, each.unique_id)})"
            for each in why.parents
        )
        lines.append(f"Parents: {', '.join(parents)}")
    return lines


def built_by_line(source: str, by: BuiltBy) -> str:
    """Return in plain words which node of another project builds a source, when that was, and what it took in."""
    built = by.built
    start = f"{source} is built by {built.name} (target {built.scope.target})"
    if not built.tick:
        return f"{start}, which was never built"
    origins = (
        f"{each.source.split('.', 2)[-1]} was loaded at tick {each.tick} ({when(each.at)})"
        + (f" by {each.producer}" if each.producer else "")
        for each in by.origins
    )
    loads = listed(origins)
    return f"{start}: last changed at tick {built.tick} there ({when(built.built_at)})" + (
        f", after {loads}" if loads else ""
    )


def source_lines(
    status: Status,
    source: SourceStatus,
    producers: Sequence[str],
    select: str,
    now: datetime,
    by: BuiltBy | None = None,
) -> list[str]:
    """Return in plain words when a source was loaded, by whom, and how what is downstream of it stands.

    Args:
        status: of the source and what is downstream of it alone.
        source: its row there.
        producers: the names of those that loaded it of late.
        select: dbt's selector of all that is downstream of it.
        now: when this is (aware).
        by: the node of another project that builds it.
    """
    loaded_by = f", by {listed(producers)}" if producers else ""
    if source.tick:
        first = f"{source.name} was loaded at tick {source.tick} ({when(source.loaded_at)}){loaded_by}."
    elif source.has_producer:
        first = f"{source.name} has a producer and was never loaded."
    else:
        first = f"{source.name} was never loaded, and no producer of it is known."
    if source.paused is not None:
        first += f" It is paused {paused(source.paused, now)}: its loads are recorded, and nothing is built for them."
    start = [first] if by is None else [first, f"{built_by_line(source.name, by)}."]
    if not status.nodes:
        return [*start, "Nothing that dbt builds is downstream of it."]
    lines = [*start, f"Downstream of it: {count(status.nodes, 'node')}."]
    for state in dict.fromkeys(each.state for each in status.nodes):
        names = [each.name for each in status.nodes if each.state == state]
        lines.append(f"{_start(STATES[state])}: {listed(names, most=8)}")
    return [*lines, f"To build them all by hand: dbt build --select {shlex.quote(select)}"]


def _shown_sources(why: Explanation) -> Sequence[SourceView]:
    """The sources whose path is worth a line: those that matter, or else a few of those that would make it build."""
    if why.verdict in ("build", "tests_only", "passed_through"):
        return [each for each in why.sources if each.state == "triggering"]
    return [each for each in why.sources if each.state in ("pending", "awaited", "paused")] or why.sources[:3]


def _why_due(why: Explanation) -> str:
    names, last = why.names, _last_build(why)
    reasons: list[str] = []
    reaching = [each for each in why.sources if each.state == "triggering"]
    if new := [each for each in reaching if each.tick > why.tick]:
        loads = _loads(new, names)
        reasons.append(f"{loads}, after this node's {last}" if why.tick else f"it was never built, and {loads}")
    for each in reaching:
        if each.tick <= why.tick:
            # Loaded before the node's last good build, and only now taken in by what stands between.
            late = next((step for step in each.path if why.ticks.get(step, each.tick) < each.tick), why.node)
            reasons.append(f"{_loads([each], names)}, and {names[late]} ({_tick(why.ticks[late])}) builds only now")
    kinds = {each.kind: each for each in why.reasons}
    if "identity" in kinds:
        reasons.append(f"{_what_changed(why, why.node)} {'too' if reasons else f'since its {last}'}")
    if "missing_relation" in kinds:
        reasons.append("its relation is not in the warehouse")
    if "asked" in kinds and not kinds.keys() & _SAY_ENOUGH:
        reasons.append(f"it was asked for, or a build of it came to no good end, at tick {why.asked_at}")
    if "prerequisite" in kinds:
        readers = named(kinds["prerequisite"].subjects, names)
        absent = "" if "missing_relation" in kinds else "it was never built, and "
        reasons.append(f"{absent}{readers} {_s(kinds['prerequisite'].subjects, 'read')} it")
    for above in why.changed_above:
        reasons.append(f"{names[above]} above it builds: {_what_changed(why, above)}")
    if not reasons:
        fresh = [each for each in why.parents if each.state in ("fresh", "in_plan")]
        builds = listed(f"{names[each.unique_id]} was built at tick {each.tick} ({when(each.at)})" for each in fresh)
        if not builds:
            reasons.append("a parent is new")
        else:
            reasons.append(f"{builds}, after this node's {last}" if why.tick else f"it was never built, and {builds}")
    return "; and ".join(reasons)


def _why_only_tested(why: Explanation) -> str:
    at = f" ({when(why.untested.built_at)})" if why.untested is not None else ""
    tick = why.untested.tick if why.untested is not None else why.tick
    return f"what it reads and what it is made of are as in its build at tick {tick}{at}, whose tests did not pass"


def _failed(failure: Failure, now: datetime) -> str:
    if failure.count == 1:
        return f"it failed the last time, at {_time_of(failure.last_at, now)}"
    return f"it failed {failure.count} times in a row since {_time_of(failure.since, now)}"


def _why_held(why: Explanation, held: Held, now: datetime) -> str:
    names = why.names
    if held.reason == "updates_on_all":
        waiting = listed(
            f"{names[each]} ({f'last new at {_tick(why.ticks[each])}' if why.ticks[each] else 'never new yet'})"
            for each in held.waiting_for
        )
        return f"is held: it needs new data from all its parents (updates_on: all) and still waits for {waiting}"
    if held.reason == "first_load":
        verb = "has a producer and was" if len(held.waiting_for) == 1 else "have a producer and were"
        sources = named(held.waiting_for, names)
        return f"is held: {sources} {verb} never loaded"
    if held.reason == "bad_config":
        if not held.waiting_for:
            return f"is held: {held.detail}"
        readable = named(held.waiting_for, names)
        return f"is held: it needs {readable} first, whose config cannot be read ({held.detail})"
    if held.reason == "load_running":
        loads = named(held.waiting_for, names)
        at_most = f", until {until(held.until, now)} at most" if held.until else ""
        return f"is held: it waits for the load of {loads}, which is running or about to{at_most}"
    if held.reason == "paused":
        end = f" until {until(held.until, now)}" if held.until else ""
        if held.waiting_for:
            are = "is" if len(held.waiting_for) == 1 else "are"
            return f"is held{end}: it waits for {named(held.waiting_for, names)}, which {are} paused"
        return f"is paused{end}{f': {held.detail}' if held.detail else ''}"
    if held.waiting_for:
        return f"is held: it waits for {named(held.waiting_for, names)}, which failed"
    if held.reason == "failed" or held.until is None:
        return "is held: it failed in this build, and nothing new came for it since"
    if held.reason == "failing":
        failed = _failed(why.failure, now) if why.failure is not None else "it failed"
        return f"is held until {until(held.until, now)}: {failed} ({held.detail})"
    if held.reason == "build_after":
        built = _time_of(why.built_at, now) if why.built_at else "an unknown time"
        length = span(why.policy.build_after) if why.policy.build_after else "?"
        reason = f"freshness.build_after {length} since its last good build at {built}"
    else:
        lag = why.policy.lag_tolerance or timedelta()
        reason = f"state.lag_tolerance {span(lag)} since data for it began to wait at {_time_of(held.until - lag, now)}"
    return f"is held until {until(held.until, now)}: {reason}"


def _why_not(why: Explanation, now: datetime) -> str:
    names = why.names
    start = "is up to date" if why.tick else "was never built"
    waits = [each for each in why.sources if each.state == "pending"]
    if why.held_above:
        at = listed(f"{names[node]}, which {_held_briefly(each, names, now)}" for node, each in why.held_above.items())
        if waits:
            return f"{start}, but {_loads(waits, names)}, which has not reached it: it waits at {at}"
        return f"{start}, and what is to come waits at {at}"
    if aside := [each for each in why.sources if each.state == "paused"]:
        return f"{start}, but {_loads(aside, names)}, and is paused: nothing is built for it until it is resumed"
    if not why.sources:
        if why.tick:
            return "is up to date: nothing above it is loaded; it builds when its own code changes"
        return (
            f"{start}, and nothing above it is loaded, so that no load builds it: build it with dbt itself "
            f"(dbt build --select {names[why.node]})"
        )
    if not why.tick and all(not each.tick for each in why.sources):
        return f"{start}, and no source above it was ever loaded; {_will_build(why)}"
    if not why.tick:
        return f"{start}, and nothing that was loaded has reached it; {_will_build(why)}"
    if same := [each for each in why.sources if each.state == "unchanged"]:
        above = why.unchanged_above
        parents = {each.unique_id for each in why.parents}
        kind = "parent" if parents.issuperset(above) else "node"
        rebuilt = f"{named(above, names)} ({kind}{'s' if len(above) > 1 else ''} rebuilt, same content)"
        return f"is up to date: {_loads(same, names)}, and reached {rebuilt}; {_will_build(why)}"
    return f"is up to date: nothing above it was loaded since its {_last_build(why)}; {_will_build(why)}"


def _will_build(why: Explanation) -> str:
    names = why.names
    waiting = [names[each] for each in why.builds_when.waiting_for]
    if why.builds_when.kind == "all_new":
        return f"it will build when all of {listed(waiting, most=8)} have new data (updates_on: all)"
    return f"it will build when {listed(waiting, 'or')} is loaded next"


def _next_step(why: Explanation, now: datetime) -> str | None:
    """Return what would make it build, where the first line does not say so."""
    step = why.builds_when
    waiting = listed(why.names.get(each, each) for each in step.waiting_for)
    text = {
        "first_load": f"It will build when {waiting} {'is' if len(step.waiting_for) == 1 else 'are'} loaded.",
        "upstream_fixed": f"It will build when {waiting} {_s(step.waiting_for, 'build')} well.",
        "upstream_released": f"It will build when {waiting} {_s(step.waiting_for, 'build')}.",
    }.get(step.kind)
    if step.kind == "resumed":
        paused_names = (
            "--all" if EVERYTHING in step.waiting_for else " ".join(map(why.names.__getitem__, step.waiting_for))
        )
        text = f"It will build after `lineage-orch resume {paused_names}`."
    if why.held is not None and why.held.reason == "failing" and why.held.until is not None:
        text = (
            "New data alone does not build it earlier; a change of its definition or of a test on it does, and "
            f"`lineage-orch retry {why.names[why.node]}`."
        )
    if step.kind == "all_new" and why.verdict == "held":
        awaited = [why.names[each.unique_id] for each in why.sources if each.state == "awaited"]
        loads = f" For that, load {listed(awaited, 'or')}." if awaited else ""
        text = f"It will build when {waiting} {'has' if len(step.waiting_for) == 1 else 'have'} new data.{loads}"
    if step.kind != "time" and step.not_before is not None and step.not_before > now:
        later = f"Not before {until(step.not_before, now)}: freshness.build_after."
        text = f"{text} {later}" if text else later
    return text


def _pauses(why: Explanation, now: datetime) -> Iterator[str]:
    """Yield the pauses that matter and are not said yet: of the node, of all nodes, of sources above."""
    for name, each in why.pauses.items():
        if name.startswith("source."):
            yield f"{why.names[name]} is paused {paused(each, now)}: its loads are recorded, and build nothing."
        elif why.held is None or why.held.reason != "paused":
            yield f"{'All nodes are' if name == EVERYTHING else 'It is'} paused {paused(each, now)}."


def _policy(policy: Policy) -> str:
    words = [f"updates_on {policy.updates_on}"]
    words += [f"build_after {span(policy.build_after)}"] if policy.build_after is not None else []
    words += [f"lag_tolerance {span(policy.lag_tolerance)}"] if policy.lag_tolerance is not None else []
    return ", ".join(words)


def _held_briefly(held: Held, names: Names, now: datetime) -> str:
    if held.until is not None:
        return f"is held until {until(held.until, now)}"
    return f"is held: {'' if held.reason == 'bad_config' and not held.waiting_for else 'it '}{held_reason(held, names)}"


def _loads(sources: Sequence[SourceView], names: Names) -> str:
    def load(each: SourceView) -> str:
        at = f" ({when(each.loaded_at)})" if each.loaded_at else ""
        return f"{names[each.unique_id]} was loaded at tick {each.tick}{at}"

    return listed(map(load, sources))


def _last_build(why: Explanation) -> str:
    at = f" ({when(why.built_at)})" if why.built_at else ""
    return f"last good build at tick {why.tick}{at}"


def _time_of(moment: datetime, now: datetime) -> str:
    moment = moment.astimezone(UTC)
    return f"{moment:%H:%M} UTC" if moment.date() == now.date() else when(moment)


def _tick(tick: int, unique_id: str = "") -> str:
    return f"tick {tick}" if tick else "never loaded" if unique_id.startswith("source.") else "never built"


def _s(subjects: Sequence[str], verb: str) -> str:
    return f"{verb}s" if len(subjects) == 1 else verb


def _start(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


# What changed of a definition -----------------------------------------------------------------------------------------


def _what_changed(why: Explanation, node: str) -> str:
    changes = why.changes.get(node)
    if not changes:
        return "its code changed"
    return listed(map(part_change, changes))


def part_change(change: PartChange) -> str:
    """Return in a few words what happened to a part of a node's definition: ``macro `cents` changed``."""
    kind, _, name = change.part.partition(" ")
    if kind == "file":
        return "its file changed"
    if kind == "relation":
        return _moved(change)
    if kind == "parents":
        return "what it reads changed"
    if change.part == "config materialized":
        return f"it is materialized as {change.new} (was {change.old})"
    label = {
        "macro": "macro",
        "ephemeral": "ephemeral model",
        "function": "function",
        "config": "config",
        "var": "var",
        "env_var": "environment variable",
    }.get(kind, kind)
    how = "is new to it" if change.old is None else "is no longer a part of it" if change.new is None else "changed"
    return f"{label} `{short_name(name, {}) if name.count('.') > 1 else name}` {how}"


def _moved(change: PartChange) -> str:
    old, new = (change.old or "").split("."), (change.new or "").split(".")
    if len(old) == len(new) == 3:
        names = ("database", "schema", "name")
        moved = [(name, now) for name, before, now in zip(names, old, new, strict=True) if before != now]
        if len(moved) == 1:
            return "it moved to " + " ".join(moved[0])
    return f"it moved to {change.new}"
