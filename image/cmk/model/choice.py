"""The rules of ``cmk isolate``: which CPU lists of a pool a request gets, why it is refused, and which variables the workload sees.

The agent's ledger and direct mode both ask here. It imports ``cmk.model.errors`` alone, for direct mode loads it before every workload.
"""

from cmk.model.errors import CmkError

TYPE_CHECKING = False  # mypy reads it as typing's constant, whose import would cost every start of a workload
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# kcm's names of two pools, which its manifests still use.
OLD_NAMES = {"dataplane": "exclusive", "controlplane": "shared"}
ANY_SOCKET = -1


class Refused(CmkError):  # an answer, not a fault
    """The request is not served. ``final``: it never will be; otherwise it may be once a task releases its lists."""

    def __init__(self, text: str, *, final: bool) -> None:
        super().__init__(text)
        self.final = final


def find_pool(pools: "Collection[str]", name: str) -> str:
    """The name of the pool that a request means by its own name or by kcm's; raises Refused."""
    new_name = name if name in pools else OLD_NAMES.get(name, name)
    if new_name not in pools:
        raise Refused(f"Requested pool {name} does not exist; this node has {', '.join(sorted(pools))}", final=True)
    return new_name


def on_socket(pool: str, lists: "Mapping[str, int]", socket: int) -> list[str]:
    """Names of a pool's lists on a socket; raises Refused when there are none. ``lists`` maps the name of each to its socket."""
    if not lists:
        raise Refused(f"No cpu lists in pool {pool}", final=True)
    if socket == ANY_SOCKET or pool == "infra":  # infra never honoured --socket-id
        return list(lists)
    names = [name for name, number in lists.items() if number == socket]
    if not names:
        sockets = ", ".join(str(number) for number in sorted(set(lists.values())))
        raise Refused(f"No cpu lists in pool {pool} on socket {socket}; it has lists on {sockets}", final=True)
    return names


def choose(
    pool: str,
    exclusive: bool,
    lists: "Mapping[str, int]",
    users: "Mapping[str, int]",
    cores: int,
    socket: int,
    available: "Iterable[str]",
) -> list[str]:
    """Names of the lists that a request gets; raises Refused.

    ``lists`` maps the name of each list to its socket, ordered by first CPU; ``users`` the name of each list in use to the number of its
    tasks. An exclusive pool gives ``cores`` lists: the first of those ``available`` that have no user. A shared pool gives the one list
    that has the fewest users.
    """
    if cores < 1:
        raise Refused(f"Requested numbers of cores must be positive integer, not {cores}", final=True)
    names = on_socket(pool, lists, socket)
    if not exclusive:
        return [min(names, key=lambda name: users.get(name, 0))]
    if cores > len(names):
        place = "" if socket == ANY_SOCKET else f" on socket {socket}"
        raise Refused(f"Not enough cpu lists in pool {pool}: {cores} asked, {len(names)} exist{place}", final=True)
    candidates = set(names)
    free = [name for name in available if name in candidates and not users.get(name)]
    if cores > len(free):
        text = f"Not enough free cpu lists in pool {pool}: {cores} asked, {len(free)} of {len(names)} free"
        raise Refused(text, final=False)
    return free[:cores]


def environment(lists: "Iterable[Collection[int]]", shared: "Iterable[int]", infra: "Iterable[int]") -> dict[str, str]:
    """Variables that the workload sees: the CPUs of each list that it has, and all CPUs of the pools shared and infra."""
    assigned = list(lists)
    return {
        "CMK_CPUS_ASSIGNED": ",".join(comma_list(cpus) for cpus in assigned),
        "CMK_CPUS_ASSIGNED_MASK": mask(cpu for cpus in assigned for cpu in cpus),
        "CMK_CPUS_SHARED": comma_list(shared),
        "CMK_CPUS_INFRA": comma_list(infra),
    }


def comma_list(cpus: "Iterable[int]") -> str:
    """CMK's name of a CPU list: the id of every CPU, ascending, joined by commas (``3,11``)."""
    return ",".join(str(cpu) for cpu in sorted(cpus))


def mask(cpus: "Iterable[int]") -> str:
    """CPUs as ``CMK_CPUS_ASSIGNED_MASK`` has them: upper-case hexadecimal without ``0x``."""
    bits = 0
    for cpu in cpus:
        bits |= 1 << cpu
    return f"{bits:X}"
