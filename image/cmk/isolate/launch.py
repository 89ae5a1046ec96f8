"""``cmk isolate``: takes CPUs from the agent, or from direct mode's pools file, and becomes the workload."""

import sys

from cmk.isolate import ask, run
from cmk.isolate.grammar import USAGE, conf_dir, cores, parse, socket_number, timeout, variable
from cmk.isolate.say import Failure, print_failure, program


def main(argv: list[str]) -> int:
    """Run the arguments of ``isolate``; returns the exit code unless this process becomes the workload."""
    try:
        return _isolate(argv)
    except Failure as failure:
        print_failure(failure)
        return failure.code


def _isolate(argv: list[str]) -> int:
    options, command = parse(argv)
    if "--help" in options:
        sys.stdout.write(USAGE)
        sys.stdout.flush()
        return 0
    if "--wait" in options and (status := run.stay_as_parent()) is not None:
        return status
    number = cores()
    assigned = _allocate(options, number) if ask.is_direct(conf_dir(options)) else ask.isolate(options, number)
    if program() == "kcm" and "CMK_CPUS_ASSIGNED" in assigned:
        assigned["KCM_CPUS_ASSIGNED"] = assigned["CMK_CPUS_ASSIGNED"]
    raise run.become(command, assigned)


def _allocate(options: dict[str, str], number: int) -> dict[str, str]:
    from cmk.isolate import local  # noqa: PLC0415  # json, which the agent's clients do not need, takes more time than all else

    return local.isolate(
        conf_dir(options),
        options["--pool"],
        number,
        socket_number(options),
        pin="--no-affinity" not in options,
        seconds=timeout(),
        procfs=variable("CMK_PROC_FS") or "/proc",
        on_move=options.get("--on-move", ""),
    )
