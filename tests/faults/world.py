"""A small world in which everything goes wrong at random: loads, builds, workers that die, clocks, a ledger."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lineage_orch import Ledger, Orchestrator
from lineage_orch.dbt.engine import OnResult, Outcome, Result
from lineage_orch.errors import LineageOrchError
from lineage_orch.ledger import LedgerSnapshot
from lineage_orch.lineage import Lineage
from lineage_orch.reports.build_report import BuildReport
from lineage_orch.updates import SourceUpdate
from tests import manifests
from tests.faults.plugs import Plug
from tests.warehouse import Killed, Warehouse

MARK = {"meta": {"lineage_orch": {"cutoff": True}}}
POLICIES: Sequence[Mapping[str, Any]] = (
    {"freshness": {"build_after": {"count": 2, "period": "hour"}}},
    {"freshness": {"build_after": {"count": 0, "period": "hour", "updates_on": "all"}}},
    {"state": {"lag_tolerance": "3h"}},
    {"state": {"require_fresh_data_from": "all"}},
)
_STEPS = {
    "load": 8,
    "build": 8,
    "deliver": 3,
    "jump": 3,
    "drop": 1,
    "deploy": 1,
    "ask": 1,
    "retry": 1,
    "restart": 1,
    "copy": 1,
    "restore": 1,
}


def random_project(dice: random.Random) -> dict[str, Any]:
    """A manifest of one to three sources, some nodes and tests, with policies here and there."""
    resources = [manifests.source(f"raw.s{number}") for number in range(dice.randint(1, 3))]
    for number in range(dice.randint(2, 9)):
        parents = dice.sample([each["unique_id"] for each in resources], dice.randint(1, min(3, len(resources))))
        kind = dice.choice(["table"] * 4 + ["view", "incremental"] + ["ephemeral"] * (number > 0))
        config = dict(MARK) if dice.random() < 0.5 else {}
        if dice.random() < 0.2:
            config |= dice.choice(POLICIES)
        resources.append(manifests.node(f"n{number}", *parents, materialized=kind, config=config))
    models = [each["unique_id"] for each in resources if each["unique_id"].startswith("model.")]
    for number in range(dice.randint(0, 3)):
        tested = dice.sample(models, min(len(models), dice.choice([1, 1, 2])))
        resources.append(manifests.node(f"t{number}", *tested, kind="test"))
    return manifests.manifest(*resources)


class WatchedWarehouse(Warehouse):
    """A warehouse that makes a table when dbt is done with it, and judges whether that had a reason."""

    def __init__(self, lineage: Lineage, world: World, *, kinds: int) -> None:
        super().__init__(lineage, kinds=kinds)
        self.world = world
        self.before_build = self.look
        self.before_node = lambda _: world.others_come()
        # What dbt said, and of it what its listener has come to an end with.
        self.said: list[Result] = []
        self.heard: list[Result] = []
        self.builders = 0

    def look(self) -> None:
        """Remember what the ledger says as dbt begins."""
        self.before = self.world.ledger_says()
        self.missing_before = frozenset(self.missing)
        self.made_now: set[str] = set()

    def build(
        self, select: Sequence[str], exclude: Collection[str], on_result: OnResult, flags: Sequence[str] = ()
    ) -> Outcome:
        """Build as the double does, table by table; whoever builds is alone."""
        self.forget_run()
        assert self.builders == 0, "two builds at once"
        self.builders += 1

        def heard(result: Result) -> None:
            node = result.unique_id
            if node in self.lineage.nodes and result.status in ("success", "error"):
                self.judge(node)
                self.make(node)
                self.made_now.add(node)
                self.world.others_come()
            self.world.plug.moment(f"{node} is done")
            self.said.append(result)
            on_result(result)
            self.heard.append(result)

        try:
            outcome = super().build(select, tuple(exclude), heard, flags)
            self.world.plug.moment("dbt ended")
            return outcome
        finally:
            self.builders -= 1

    def forget_run(self) -> None:
        """Begin to listen anew."""
        self.said.clear()
        self.heard.clear()

    def judge(self, node: str) -> None:
        """A node is built for its first time, for new data, for other code, for a lost table, or since it was asked."""
        before, graph = self.before, self.lineage.built_graph
        fact, untested = before.nodes.get(node), before.untested.get(node)
        identity = self.lineage.identity(node)
        last = fact.tick if fact is not None and fact.identity == identity else 0
        if untested is not None and untested.identity == identity:
            last = max(last, untested.tick)
        parents = [graph.ids[parent] for parent in graph.parents[graph.index[node]]]
        assert (
            not last
            or node in self.missing_before
            # A run itself notes what it sets about, over what was asked for before.
            or last < before.debts.get(node, 0) < before.tick + (node in self.world.wanted)
            or any(self.is_new(each) or self.changed(each) > last for each in parents)
        ), f"{node} was built at {before.tick} for nothing: {fact}, {untested}"

    def is_new(self, each: str) -> bool:
        """Whether it was built just now, or is a view of what is new."""
        if each in self.made_now:
            return True
        graph, is_view = self.lineage.built_graph, each in self.lineage.nodes and self.world.is_view(each)
        return is_view and any(self.is_new(graph.ids[parent]) for parent in graph.parents[graph.index[each]])

    def changed(self, each: str) -> int:
        """The tick of the last change of a source or node, tested or not; of a view, of all that is seen through it."""
        fact, graph = self.before.nodes.get(each), self.lineage.built_graph
        tick = self.before.sources.get(each, 0) if fact is None else fact.changed_tick
        if each in self.before.untested:
            tick = max(tick, self.before.untested[each].tick)
        if each in self.lineage.nodes and self.world.is_view(each):
            above = [self.changed(graph.ids[parent]) for parent in graph.parents[graph.index[each]]]
            return max([tick, *above])
        return tick


class World:
    """A project with its warehouse, its ledger and its loads, and what happens to them by one seed.

    Args:
        seed: it repeats all that happens.
        folder: an empty one, best in memory.
        plug: between the ledger and its database.

    Attributes:
        log: what happened, a line each.
    """

    def __init__(self, seed: int, folder: Path, plug: Plug) -> None:
        self.dice = dice = random.Random(seed)
        self.log: list[str] = []
        self.plug = plug
        self.now = datetime(2026, 3, 28, 12, tzinfo=UTC)
        self.project = random_project(dice)
        self.folder = folder
        (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n", encoding="utf-8")
        profile = "shop: {target: dev, outputs: {dev: {type: duckdb, path: w.duckdb}}}\n"
        (folder / "profiles.yml").write_text(profile, encoding="utf-8")
        self.options: dict[str, Any] = {
            "node_retries": 0,
            "views": dice.choice(["build", "pass_through"]),
            "cutoff": dice.choice(["auto", "auto", "off"]),
        }
        # A fingerprint tells of what stands in a table as long as the times of its loads are in their order.
        self.are_clocks_right = dice.random() < 0.5
        self.skew = {each: timedelta(hours=dice.choice([-1, 0, 1])) for each in self.project["sources"]}
        self.write_manifest()
        self.warehouse = WatchedWarehouse(self.lineage, self, kinds=dice.choice([2, 3, 1000]))
        self.loads: list[SourceUpdate] = []
        self.late: list[SourceUpdate] = []
        self.wanted: set[str] = set()
        self.asked: dict[str, int] = {}
        self.copied: dict[str, bytes] | None = None
        self.is_nested = False
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self.observer = Ledger(self.url, project="shop", target="dev")
        self.orchestrator = self.start()
        if dice.random() < 0.3:
            self.try_to("register", lambda: self.orchestrator.register_producers(dice.sample(self.sources, 1)))

    @property
    def sources(self) -> list[str]:
        """The sources of the project."""
        return sorted(self.lineage.sources)

    @property
    def nodes(self) -> list[str]:
        """The nodes of the project."""
        return sorted(self.lineage.nodes)

    def start(self) -> Orchestrator:
        """A new process, with connections of its own."""
        return Orchestrator(
            project_dir=self.folder,
            manifest=self.folder / "manifest.json",
            dbt=self.warehouse,
            ledger=Ledger(self.url, project="shop", target="dev", place="w.main"),
            clock=lambda: self.now,
            **self.options,
        )

    def write_manifest(self) -> None:
        """Deploy the project as it is now."""
        path = self.folder / "manifest.json"
        path.write_text(json.dumps(self.project), encoding="utf-8")
        self.lineage = Lineage.from_manifest(path)

    def ledger_says(self) -> LedgerSnapshot:
        """What is in the ledger, asked from outside."""
        with self.plug.unseen():
            return self.observer.snapshot(history_of=())

    def close(self) -> None:
        """Let go of the connections."""
        self.orchestrator.ledger.close()
        self.observer.close()

    # -- what happens ---------------------------------------------------------------------------------------

    def step(self) -> None:
        """Let one thing happen."""
        getattr(self, self.dice.choices(list(_STEPS), list(_STEPS.values()))[0])()

    def try_to(self, what: str, do: Callable[[], object]) -> bool:
        """Do it in the process as it stands, which may be killed, or lose its database; returns whether it was done."""
        dice = self.dice
        if not self.is_nested:
            self.warehouse.forget_run()
        if not self.is_nested and dice.random() < 0.35:
            after = dice.choice([dice.randrange(12), dice.randrange(80)])
            if dice.random() < 0.6:
                self.plug.kill_after(after)
            else:
                self.plug.fail_after(after, dice.choice([1, 1, 3, 10]))
        try:
            done = do()
        except Killed as killed:
            if self.is_nested:
                raise
            self.log.append(f"{what}: killed at {killed}")
            self.check_nothing_heard_is_lost()
            self.plug.put_back()
            self.start_anew()
            return False
        except LineageOrchError as error:
            self.log.append(f"{what}: {error}")
            if not (self.plug.is_pulled or self.is_nested):
                raise
            if not self.is_nested:
                self.plug.put_back()
            return False
        self.log.append(f"{what}: {done}")
        if not self.is_nested:
            self.plug.put_back()
        return True

    def start_anew(self) -> None:
        with self.plug.unseen():
            self.orchestrator.ledger.close()
        self.orchestrator = self.start()

    restart = start_anew

    def check_nothing_heard_is_lost(self) -> None:
        """A kill loses only what was in flight: of which dbt had not told, or of whose tests."""
        if not self.warehouse.builders and not self.warehouse.heard:
            return
        status = {each.unique_id: each.status for each in self.warehouse.heard}
        after, tick = self.ledger_says(), self.warehouse.before.tick
        for node, said in status.items():
            if node in self.lineage.nodes and said == "success":
                tests = self.lineage.tests_on(node)
                if all(status.get(test) == "pass" for test in tests):
                    assert after.nodes[node].tick >= tick, f"{node} was done at {tick}, and is not recorded"

    def load(self) -> None:
        source = self.dice.choice(self.sources)
        content = f"{source} {self.dice.randrange(3)}"
        self.warehouse.tables[source] = content
        update = SourceUpdate(
            source,
            f"load {len(self.loads)}",
            self.now + self.skew[source],
            fingerprint=content if self.are_clocks_right and self.dice.random() < 0.5 else None,
        )
        self.loads.append(update)
        if self.are_clocks_right:
            self.now += timedelta(seconds=1)
        fate = self.dice.choices(["told", "twice", "late", "lost"], [6, 1, 2, 1])[0]
        if fate == "late":
            self.late.append(update)
            self.log.append(f"{update.update_id} of {source} is told later")
        elif fate == "lost":
            self.log.append(f"{update.update_id} of {source} is lost, until someone looks")
        else:
            times = 2 if fate == "twice" else 1
            self.try_to(
                f"{update.update_id} of {content}", lambda: [self.orchestrator.record([update]) for _ in range(times)]
            )

    def deliver(self) -> None:
        """Hooks run late, in any order; or all loads of late are looked up."""
        told = list(self.late) if self.dice.random() < 0.7 else self.dice.sample(self.loads, min(5, len(self.loads)))
        self.dice.shuffle(told)
        if self.try_to(f"deliver {len(told)}", lambda: self.orchestrator.record(told)):
            self.late = [each for each in self.late if each not in told]

    def build(self) -> None:
        dice, warehouse = self.dice, self.warehouse
        things = [*self.nodes, *(each for each in self.project["nodes"] if each.startswith("test."))]
        warehouse.failing = set(dice.sample(things, dice.choice([0, 0, 1, 2]) % len(things)))
        warehouse.wobble = set(dice.sample(self.nodes, 1))
        warehouse.unknown = set(dice.sample(self.nodes, dice.choice([0, 0, 1])))
        self.try_to("build", lambda: self.orchestrator.build(rounds=dice.choice([0, 2])).summary())
        self.check_good()

    def check_good(self) -> None:
        """What the last run recorded was done well in it, and so were the tests on it."""
        if not self.warehouse.said:
            return
        status = {each.unique_id: each.status for each in self.warehouse.said}
        tick = self.warehouse.before.tick
        for node, fact in self.ledger_says().nodes.items():
            if fact.tick == tick and node in self.lineage.nodes:
                assert status.get(node) == "success" or self.is_view(node), (node, status)
                assert not [test for test in self.lineage.tests_on(node) if status.get(test) == "fail"], node

    def is_view(self, node: str) -> bool:
        return self.lineage.nodes[node].materialized == "view"

    def others_come(self) -> None:
        """In the midst of a build another process records a load, or wants to build; or the ledger is replaced."""
        if self.is_nested or self.dice.random() > 0.1:
            return
        self.is_nested = True
        mine = self.orchestrator
        try:
            with self.plug.unseen():
                self.orchestrator = self.start()
                if self.dice.random() < 0.7:
                    self.load()
                if self.dice.random() < 0.2:
                    self.ask()
                if self.dice.random() < 0.5:
                    report = self.orchestrator.build()
                    assert report.busy, "two builds at once"
                    self.log.append("another finds the lock taken")
                self.orchestrator.ledger.close()
        finally:
            self.orchestrator = mine
            self.is_nested = False

    def jump(self) -> None:
        """Time goes by; a clock that is wrong goes back, too."""
        hours = [0.1, 1, 1, 5, 30, 24 * 100] if self.are_clocks_right else [0.1, 1, 5, 30, -1, -25, 24 * 400]
        self.now += timedelta(hours=self.dice.choice(hours))

    def drop(self) -> None:
        """Someone drops a table."""
        node = self.dice.choice(self.nodes)
        if node in self.warehouse.tables:
            self.log.append(f"{node} is dropped")
            del self.warehouse.tables[node]
            self.warehouse.missing.add(node)

    def deploy(self) -> None:
        """Code, or a policy, changes; or changes back."""
        of_node = self.project["nodes"][self.dice.choice(self.nodes)]
        if self.dice.random() < 0.6:
            of_node["checksum"]["checksum"] = f"code of {of_node['name']}, {self.dice.randrange(2)}"
        else:
            for each in ("freshness", "state"):
                of_node["config"].pop(each, None)
            of_node["config"].update(self.dice.choice([{}, *POLICIES]))
        self.write_manifest()
        self.warehouse.lineage = self.lineage
        self.log.append(f"{of_node['name']} is changed")

    def ask(self) -> None:
        node = self.dice.choice(self.nodes)
        self.wanted.add(node)
        if self.try_to(f"ask for {node}", lambda: self.orchestrator.mark_stale([node])):
            self.asked[node] = self.ledger_says().tick

    def retry(self) -> None:
        self.try_to("retry", self.orchestrator.retry)

    def copy(self) -> None:
        """Take a copy of the ledger, as a backup does."""
        with self.plug.unseen():
            self.orchestrator.ledger.close()
            self.observer.close()
        self.copied = {
            name: (self.folder / name).read_bytes()
            for name in ("ledger.db", "ledger.db-wal")
            if (self.folder / name).exists()
        }
        self.log.append("the ledger is copied")

    def restore(self) -> None:
        """Put an older copy of the ledger in its place, and do what the documentation says then."""
        if not self.copied:
            return
        with self.plug.unseen():
            self.orchestrator.ledger.close()
            self.observer.close()
            for path in self.folder.glob("ledger.db*"):
                if not path.name.endswith(".lock"):
                    path.unlink()
            for name, content in self.copied.items():
                (self.folder / name).write_bytes(content)
            self.orchestrator.mark_stale(self.nodes)
        self.wanted.update(self.nodes)
        self.asked.clear()
        self.log.append("the ledger is restored, and all of it marked stale")

    # -- and how it ends ------------------------------------------------------------------------------------

    def heal(self) -> BuildReport:
        """Let all work again, look for loads that were not told, and let time go by until nothing waits for it."""
        warehouse = self.warehouse
        self.plug.put_back()
        self.is_nested = True  # nothing happens any more
        warehouse.failing, warehouse.wobble, warehouse.unknown = set(), set(), set()
        warehouse.before_node = lambda _: None
        self.log.append("healed")
        self.orchestrator.record(self.loads)
        for _ in range(100):
            report = self.orchestrator.build(rounds=None)
            self.log.append(f"at {self.now}: {report.summary()}")
            assert not report.busy
            assert report.ok, report
            if report.next_due is None:
                return report
            assert report.next_due < self.now + timedelta(hours=7), "no policy, and no failure, holds anything longer"
            self.now = max(self.now + timedelta(seconds=1), report.next_due)
        raise AssertionError("something is due for ever")

    def check(self, report: BuildReport) -> None:
        """Every source's last update reached every node below it, or the node is held for a reason that holds."""
        warehouse, lineage, graph = self.warehouse, self.lineage, self.lineage.built_graph
        loaded = {each.source for each in self.loads}
        below = {each for source in loaded for each in lineage.downstream(source)}
        ledger = self.ledger_says()
        for node, tick in self.asked.items():
            assert node in report.held or ledger.nodes[node].tick > tick, f"{node} was asked for at {tick}"
        full = {each: rows for each, rows in warehouse.tables.items() if each.startswith("source.")}
        waiting: set[str] = set()
        for node in graph.ids[graph.source_count :]:
            held = report.held.get(node)
            if held is not None:
                assert held.reason in ("first_load", "updates_on_all"), held
                assert held.waiting_for, held
                if held.reason == "first_load":
                    assert all(each in ledger.producers and each not in loaded for each in held.waiting_for), held
            parents = [graph.ids[parent] for parent in graph.parents[graph.index[node]]]
            if any(each in waiting and (node not in warehouse.tables or self.is_view(each)) for each in parents):
                waiting.add(node)  # for what is held: it was never built, or shows more than was passed on
            if held is not None:
                waiting.add(node)
            if node not in below or node in waiting:
                if node in warehouse.tables:
                    full[node] = warehouse.tables[node]
                continue
            assert node in warehouse.tables, f"{node} was never built"
            full[node] = warehouse.made(node, full)
            if not self.is_view(node):
                assert warehouse.tables[node] == full[node], f"{node} is not what a full build makes"
        assert not warehouse.missing & below - waiting, "a table is missing"
        assert self.orchestrator.build().runs == 0, "and then nothing is built"


def run_schedule(seed: int, folder: Path, plug: Plug) -> World:
    """Let everything happen that a seed says, heal, and check; what goes wrong names the seed and what happened."""
    folder.mkdir()
    world = World(seed, folder, plug)
    try:
        for _ in range(world.dice.randint(4, 14)):
            world.step()
        world.check(world.heal())
    except BaseException as error:
        error.add_note(f"FAULT_SEED={seed} repeats it:\n" + "\n".join(f"  {line}" for line in world.log))
        raise
    finally:
        plug.put_back()
        with suppress(Killed):
            world.close()
        shutil.rmtree(folder, ignore_errors=True)
    return world
