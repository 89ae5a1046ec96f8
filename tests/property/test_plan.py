"""Plans between random layouts: nobody is lost, no exclusive CPU ever has two owners, and a plan that was made leaves nothing to do."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import msgspec
from hypothesis import assume, given, settings

from cmk.model.advertise import demand
from cmk.model.choice import Refused
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.ledger import Ledger
from cmk.model.order import NoRoomError, Step, ordered_steps
from cmk.model.plan import Plan, cpus_of, plan
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Request, Task
from tests.property.plain_order import plain_steps

KINDS = {"exclusive": True, "gold": True, "shared": False, "infra": False}
MANY = settings(deadline=None, max_examples=400)
# Made once: hypothesis looks at every strategy that is new, which takes longer than to draw from it.
CORES = st.sampled_from([*KINDS, "exclusive", "nobody"])
REQUESTS = st.tuples(st.integers(0, 3), st.sampled_from(sorted(KINDS)), st.integers(1, 2), st.sampled_from([-1, -1, 0, 1]))
NUMBER, EXTRA = st.integers(0, 8), st.integers(0, 2)
TAKEN = st.lists(st.sampled_from(["exclusive", "gold", "shared"]), min_size=2, max_size=5)
APART = st.sampled_from([4, 100])


def layout(cores: list[str]) -> Layout:
    """Core number → pool; two CPUs per core, the first half of the cores on socket 0."""
    half = (len(cores) + 1) // 2
    pools = {}
    for name, exclusive in KINDS.items():
        mine = [number for number, pool in enumerate(cores) if pool == name]
        lists = [CpuList(frozenset({2 * number, 2 * number + 1}), int(number >= half)) for number in mine]
        if not exclusive:
            lists = [
                CpuList(frozenset().union(*(item.cpus for item in lists if item.socket == socket)), socket)
                for socket in sorted({item.socket for item in lists})
            ]
        if lists or name == "infra":
            pools[name] = Pool(name, exclusive, tuple(lists))
    return Layout(pools)


@st.composite
def layouts(draw: st.DrawFn, count: int) -> Layout:
    cores = draw(st.lists(CORES, min_size=count, max_size=count))
    cores[draw(st.integers(0, count - 1))] = "infra"
    return layout(cores)


@st.composite
def changes(draw: st.DrawFn) -> tuple[Layout, Layout, list[Task], list[Pod]]:
    """Two layouts of one machine, tasks on the first, and pods that are bound."""
    count = draw(st.integers(2, 8))
    old, new = draw(layouts(count)), draw(layouts(count))
    ledger = Ledger(old, require_grant=False)
    pods = {f"u{number}": Pod(f"u{number}", "ns", f"p{number}", {}) for number in range(4)}
    for pid in range(draw(NUMBER)):
        owner, pool, cores, socket = draw(REQUESTS)
        try:
            ledger.allocate(Request(pool, Process(pid + 1, 1), cores, socket, pods[f"u{owner}"], f"c{pid}"))
        except Refused:
            continue
    bound = []
    for pod in pods.values():
        extra = draw(EXTRA)
        held = ledger.held(pod.uid, "exclusive") + extra
        bound.append(msgspec.structs.replace(pod, grants={"cmk.intel.com/exclusive-cores": held} if held else {}))
    return old, new, list(ledger.tasks.values()), bound if draw(st.booleans()) else []


@st.composite
def swaps(draw: st.DrawFn) -> tuple[Layout, Layout, list[Task], list[Pod]]:
    """The same pools on other cores, every list of which is held: tasks that have to go where others are."""
    cores = ["infra", *draw(TAKEN)]
    old, new = layout(draw(st.permutations(cores))), layout(draw(st.permutations(cores)))
    ledger = Ledger(old, require_grant=False)
    lists = [(name, item) for name, pool in old.pools.items() for item in pool.lists]
    apart = draw(APART)  # or several in a container
    for pid, (name, _) in enumerate(lists):
        ledger.allocate(Request(name, Process(pid + 1, 1), pod=Pod(f"u{pid % 4}", "ns", "p", {}), container=f"c{pid % apart}"))
    return old, new, list(ledger.tasks.values()), []


def shared_cpus(layout: Layout) -> frozenset[int]:
    return frozenset().union(*(pool.cpus for pool in layout.pools.values() if not pool.exclusive))


def applied(planned: Plan) -> list[Task]:
    moved = [msgspec.structs.replace(move.task, lists=move.lists) for move in planned.moves]
    return sorted([*planned.keeps, *moved], key=lambda task: task.process)


@MANY
@given(changes())
def test_all_is_lost_or_nobody(change: tuple[Layout, Layout, list[Task], list[Pod]]) -> None:
    old, new, tasks, pods = change
    planned = plan(old, new, tasks, pods)
    if planned.refusals:
        assert (planned.keeps, planned.moves) == ((), ())
        return
    after = applied(planned)
    assert [task.process for task in after] == sorted(task.process for task in tasks)
    ledger = Ledger(new)
    assert all(ledger.restore(task) for task in after), "every list exists and has one owner"
    for task in after:
        before = next(other for other in tasks if other.process == task.process)
        assert (task.pool, len(task.lists)) == (before.pool, len(before.lists))
        lists = {item.name: item for item in new.pools[task.pool].lists}
        if task.socket != -1 and task.pool != "infra":
            assert {lists[name].socket for name in task.lists} == {task.socket}
        if new.pools[task.pool].exclusive:
            assert set(before.lists) & lists.keys() <= set(task.lists), "who has a list that stays keeps it"
    for name, pool in new.pools.items():
        if pool.exclusive:
            present = len(old.pools[name].lists) if name in old.pools else 0
            assert min(sum(demand(name, tasks, pods, present).values()), present) <= len(pool.lists)
    again = plan(new, new, after, pods)
    assert (again.moves, again.refusals) == ((), ())
    assert plan(old, new, reversed(tasks), reversed(pods)) == planned


@MANY
@given(changes() | swaps())
def test_the_order_is_that_of_looking_at_every_task_for_every_step(change: tuple[Layout, Layout, list[Task], list[Pod]]) -> None:
    old, new, tasks, _ = change
    planned = plan(old, new, tasks)

    def answer(steps: Callable[[Plan, Layout, Layout], tuple[Step, ...]]) -> tuple[Step, ...] | None:
        try:
            return steps(planned, old, new)
        except NoRoomError:
            return None

    assert answer(ordered_steps) == answer(plain_steps)


@MANY
@given(changes() | swaps())
def test_no_exclusive_cpu_has_two_owners_at_any_instant(change: tuple[Layout, Layout, list[Task], list[Pod]]) -> None:
    old, new, tasks, _ = change
    planned = plan(old, new, tasks)
    assume(planned.moves)
    try:
        steps = ordered_steps(planned, old, new)
    except NoRoomError:
        # Only where every CPU that is shared before long is somebody's own now, and every one that has been is about to be.
        owned = frozenset().union(*(cpus_of(old, task) for task in tasks if old.pools[task.pool].exclusive))
        assert shared_cpus(new) & owned or not shared_cpus(new)
        assert not shared_cpus(old) - owned or len(planned.moves) > 2
        return
    kinds = {task.process: new.pools[task.pool].exclusive for task in tasks}
    now = {task.process: (cpus_of(old, task), kinds[task.process]) for task in tasks}
    for step in steps:
        now[step.process] = (step.cpus, step.last and kinds[step.process])
        for process, (cpus, owns) in now.items():
            assert cpus
            for other, (others, owns_too) in now.items():
                assert process == other or not (cpus & others and (owns or owns_too))
    assert {process: cpus for process, (cpus, _) in now.items()} == {
        task.process: cpus_of(new, task) for task in applied(planned)
    }
    parked = [step.process for step in steps if not step.last]
    assert len(parked) == len(set(parked)), "nobody is parked twice"
