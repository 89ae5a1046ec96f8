import msgspec
import pytest

from cmk.model.choice import Refused
from cmk.model.config import PoolConfig
from cmk.model.layout import CpuList, Layout, Pool, compute
from cmk.model.ledger import Ledger
from cmk.model.pods import MOST_CORES, Pod, resource_of
from cmk.model.tasks import Process, Request, Task
from tests.unit.machines import machine

EXCLUSIVE = resource_of("exclusive")


def new_ledger(**kwargs: int) -> Ledger:
    pools = {
        "exclusive": PoolConfig(3, exclusive=True, mode="spread"),
        "shared": PoolConfig(2, mode="spread"),
        "infra": PoolConfig("rest"),
    }
    return Ledger(compute(machine(sockets=2, cores=4), pools), **kwargs)  # type: ignore[arg-type]


def pod(granted: int = 1, uid: str = "u1") -> Pod:
    return Pod(uid, "ns", "web", {EXCLUSIVE: granted} if granted else {})


def request(pool: str = "exclusive", pid: int = 1, granted: int = 1, **more: object) -> Request:
    return Request(pool, Process(pid, 5), pod=pod(granted), **more)  # type: ignore[arg-type]


def test_hands_out_the_lowest_free_list() -> None:
    ledger = new_ledger()
    assert ledger.allocate(request(pid=1, granted=2)).lists == ("0,8",)
    assert ledger.allocate(request(pid=2, granted=2)).lists == ("1,9",)


def test_several_cores_come_in_numeric_order() -> None:
    ledger = new_ledger()
    task = ledger.allocate(request(granted=3, cores=3))
    assert ledger.environment(task) == {
        "CMK_CPUS_ASSIGNED": "0,8,1,9,4,12",
        "CMK_CPUS_ASSIGNED_MASK": "1313",
        "CMK_CPUS_SHARED": "2,5,10,13",
        "CMK_CPUS_INFRA": "3,6,7,11,14,15",
    }


def test_shared_tasks_go_where_fewest_are() -> None:
    ledger = new_ledger()
    assert [ledger.allocate(request("shared", pid=pid)).lists[0] for pid in (1, 2, 3)] == ["2,10", "5,13", "2,10"]


def test_shared_pools_need_no_pod_and_no_grant() -> None:
    assert new_ledger().allocate(Request("shared", Process(1, 1))).lists == ("2,10",)


@pytest.mark.parametrize(
    ("asked", "final", "text"),
    [
        (request("nope"), True, "Requested pool nope does not exist; this node has exclusive, infra, shared"),
        (request(granted=0), True, "pod ns/web requests no cmk.intel.com/exclusive-cores"),
        (Request("exclusive", Process(1, 1)), True, "this process is in no pod"),
        (request(cores=2), True, "2 cores of pool exclusive asked, pod ns/web is granted 1"),
        (request(cores=0), True, "Requested numbers of cores must be positive integer"),
        (request(granted=3, cores=2, socket=1), True, "Not enough cpu lists in pool exclusive: 2 asked, 1 exist on socket 1"),
        (
            request(granted=4),
            True,
            "pod ns/web requests 4 cmk.intel.com/exclusive-cores, but this node has 3, so that none is granted: lower the number",
        ),
        (request(granted=MOST_CORES + 1, cores=3), True, "pod ns/web requests more than 65536 cmk.intel.com/exclusive-cores"),
        (request(socket=4), True, "No cpu lists in pool exclusive on socket 4; it has lists on 0, 1"),
    ],
)
def test_says_why_it_refuses(asked: Request, final: bool, text: str) -> None:
    with pytest.raises(Refused) as refusal:
        new_ledger().allocate(asked)
    assert text in str(refusal.value)
    assert refusal.value.final is final


def test_a_grant_in_use_may_come_back() -> None:
    ledger = new_ledger()
    ledger.allocate(request(pid=1))
    with pytest.raises(Refused, match="already holds 1 of its 1") as refusal:
        ledger.allocate(request(pid=2))
    assert not refusal.value.final


def test_a_socket_without_lists_is_refused_at_once_whatever_the_pod_holds() -> None:
    ledger = new_ledger()
    ledger.allocate(request(pid=1))
    with pytest.raises(Refused, match="No cpu lists in pool exclusive on socket 4") as refusal:
        ledger.allocate(request(pid=2, socket=4))
    assert refusal.value.final


def test_a_full_pool_may_get_room() -> None:
    ledger = new_ledger()
    ledger.allocate(request(pid=1, granted=3, cores=3))
    other = Request("exclusive", Process(2, 5), pod=pod(1, "u2"))
    with pytest.raises(Refused, match="1 asked, 0 of 3 free") as refusal:
        ledger.allocate(other)
    assert not refusal.value.final


def test_a_list_that_goes_is_for_pods_that_request_the_pool_and_comes_last() -> None:
    ledger = new_ledger()
    pools = ledger.layout.pools
    ledger.freeze(Layout({**pools, "exclusive": Pool("exclusive", True, pools["exclusive"].lists[1:])}))
    assert ledger.allocate(request(granted=3, cores=3)).lists == ("1,9", "4,12", "0,8")


def test_a_list_that_goes_is_not_for_a_process_without_a_grant() -> None:
    ledger = new_ledger(require_grant=False)
    ledger.freeze(Layout({}))
    with pytest.raises(Refused, match="1 asked, 0 of 3 free"):
        ledger.allocate(Request("exclusive", Process(1, 1)))


def test_without_enforcement_anybody_may_take_a_free_list() -> None:
    assert new_ledger(require_grant=False).allocate(Request("exclusive", Process(1, 1))).lists == ("0,8",)


def test_a_lost_reply_is_given_again() -> None:
    ledger = new_ledger()
    assert ledger.allocate(request()) == ledger.allocate(request())


def test_a_process_that_asks_for_another_list_may_get_its_own_again() -> None:
    ledger = new_ledger()
    ledger.allocate(request(granted=3, cores=3))
    assert ledger.allocate(request(granted=3, cores=2)).lists == ("0,8", "1,9")


def test_asking_for_another_pool_gives_the_first_list_back() -> None:
    ledger = new_ledger()
    ledger.allocate(request())
    ledger.allocate(request("shared"))
    assert ledger.held("u1", "exclusive") == 0


def test_a_refused_change_keeps_what_was_held() -> None:
    ledger = new_ledger()
    ledger.allocate(request())
    with pytest.raises(Refused):
        ledger.allocate(request("nope"))
    assert ledger.held("u1", "exclusive") == 1


@pytest.mark.parametrize("lists", [(), ("7,7",), ("0,8", "99")])
def test_a_task_on_lists_that_do_not_exist_is_not_restored(lists: tuple[str, ...]) -> None:
    assert not new_ledger().restore(Task(Process(1, 1), "exclusive", lists))


def test_a_second_owner_is_not_restored() -> None:
    ledger = new_ledger()
    assert ledger.restore(Task(Process(1, 1), "exclusive", ("0,8",)))
    assert not ledger.restore(Task(Process(2, 1), "exclusive", ("0,8",)))


def test_a_change_that_would_leave_no_cpu_over_closes_only_the_new_exclusive_ones() -> None:
    old, new = (
        Layout(
            {"exclusive": Pool("exclusive", True, (CpuList(exclusive, 0),)), "infra": Pool("infra", False, (CpuList(rest, 0),))}
        )
        for exclusive, rest in ((frozenset({0}), frozenset({1})), (frozenset({1}), frozenset({0})))
    )
    ledger = Ledger(old)
    ledger.announce(new, {})
    ledger.begin()
    assert ledger.exclusive == {1}


def test_a_pod_has_no_more_tasks_than_a_pod_may_have() -> None:
    ledger = new_ledger(tasks_per_pod=2)
    first = ledger.allocate(request("shared", pid=1))
    ledger.allocate(request("infra", pid=2))
    with pytest.raises(Refused, match="pod ns/web has 2 tasks already, as many as the limit") as refusal:
        ledger.allocate(request("shared", pid=3))
    assert not refusal.value.final
    assert ledger.allocate(request("infra", pid=1)).pool == "infra"  # a process that has a task may ask for another
    ledger.allocate(Request("shared", Process(4, 1)))
    ledger.allocate(Request("shared", Process(5, 1)))
    with pytest.raises(Refused, match="processes outside pods have 2 tasks already"):
        ledger.allocate(Request("shared", Process(6, 1)))
    ledger.release(first.process)
    assert ledger.allocate(request("shared", pid=3)).pool == "shared"


def test_during_a_change_only_lists_are_handed_out_that_it_does_not_concern() -> None:
    ledger = new_ledger()
    owner = ledger.allocate(request(pid=1, granted=3))  # on 0,8, and 1,9 and 4,12 are free
    pools = dict(ledger.layout.pools)
    pools["exclusive"] = Pool("exclusive", True, (*pools["exclusive"].lists[:2], CpuList(frozenset({6, 14}), 0)))
    pools["shared"] = Pool("shared", False, pools["shared"].lists[:1])
    ledger.announce(Layout(pools), {owner.process: frozenset({1, 9})})
    for asked, text in [
        (request("infra", pid=2), "tasks of the same container"),
        (request(pid=2, granted=3, container="other"), "0 of 3 free"),  # 0,8 has an owner, somebody comes to 1,9, and 4,12 goes
        (request("shared", pid=2, container="other"), "pool shared among them"),
        (request(pid=1, granted=3), "the task that the process has"),
    ]:
        with pytest.raises(Refused, match=text) as refusal:
            ledger.allocate(asked)
        assert not refusal.value.final
    assert ledger.allocate(request("infra", pid=2, container="other")).pool == "infra"
    ledger.announce(Layout(pools), {})
    assert ledger.allocate(request(pid=3, granted=3)).lists == ("1,9",)
    ledger.end(Layout(pools), ledger.tasks.values())
    assert ledger.allocate(request(pid=4, granted=3)).lists == ("6,14",)


def test_cpus_that_a_process_gives_up_during_a_change_are_open_beside_those_that_others_move_to() -> None:
    ledger = new_ledger()
    tasks = [ledger.allocate(request(pid=pid, granted=3)) for pid in (1, 2)]
    ledger.announce(ledger.layout, {tasks[0].process: frozenset({4, 12})})
    assert ledger.open_to(tasks[0]) == {0, 8}
    ledger.begin()
    ledger.keep_open(tasks[1].process, frozenset({2}))
    assert [ledger.open_to(task) for task in tasks] == [{0, 8, 4, 12}, {1, 9, 2}]
    ledger.keep_open(tasks[1].process, frozenset())
    assert [ledger.open_to(task) for task in tasks] == [{0, 8, 4, 12}, {1, 9}]


def test_a_list_whose_pool_becomes_exclusive_is_not_handed_out_during_the_change() -> None:
    ledger = new_ledger()
    shared = ledger.layout.pools["shared"]
    coming = Layout({**ledger.layout.pools, "shared": Pool("shared", True, shared.lists)})
    ledger.announce(coming, {})
    with pytest.raises(Refused, match="pool shared among them"):
        ledger.allocate(request("shared"))


def test_what_moves_is_known_until_the_change_ends() -> None:
    ledger = new_ledger()
    task = ledger.allocate(request())
    assert not ledger.is_changing
    ledger.announce(ledger.layout, {task.process: frozenset({1, 9})})
    beside, elsewhere = (
        msgspec.structs.replace(task, process=Process(7, 1), container=name) for name in (task.container, "other")
    )
    assert [ledger.is_beside_moving(each) for each in (task, beside, elsewhere)] == [True, True, False]
    assert ledger.is_changing
    ledger.end(ledger.layout, [task])
    assert (ledger.is_changing, ledger.is_beside_moving(task)) == (False, False)
