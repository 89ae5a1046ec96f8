"""The service of a node that has a layout: ledger, isolation, sockets and launcher, and the changes of its pools."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from cmk.agent.allocator import Allocator
from cmk.agent.files import StateFiles
from cmk.agent.limits import number_of_files
from cmk.agent.options import Options
from cmk.agent.pod_cache import PodCache
from cmk.agent.served_directory import ServedDirectory
from cmk.agent.server import Server
from cmk.agent.turns import with_pauses
from cmk.agent.wakeups import Wakeups
from cmk.host import launcher_files
from cmk.host.affinity import AffinityError
from cmk.host.journal import ChangeError, StartedChange
from cmk.host.notify import Notifier
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.isolation.layers import Layers
from cmk.model import report
from cmk.model.choice import Refused
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout, SavedLayout
from cmk.model.ledger import Ledger
from cmk.model.order import Step, ordered_steps
from cmk.model.plan import Move, Plan
from cmk.model.tasks import Process, Task, TasksFile
from cmk.model.topology import Topology
from cmk.model.wire import Show

log = logging.getLogger(__name__)

INFRA = "infra"


class Service:
    """Serves workloads on one layout at a time. Wakes both loops after every change of the ledger."""

    def __init__(
        self, options: Options, files: StateFiles, layout: Layout, topology: Topology, pods: PodCache, wakeups: Wakeups
    ) -> None:
        self._options = options
        self._topology = topology
        procfs = Procfs(options.proc_root, options.host_paths.cgroups)
        limits = options.limits.fitting(number_of_files())
        self.ledger = Ledger(layout, require_grant=options.require_request, tasks_per_pod=limits.tasks)
        self.layers = Layers(options.host_paths, procfs, self.ledger, topology, wakeups.wake_both)
        self._notifier = Notifier(options.service_dirs, procfs)
        self._allocator = Allocator(self.ledger, pods, procfs, files, wakeups, self.layers.enforce, self._notifier)
        self._shown: dict[Show, tuple[int, str]] = {}
        self._change = files.change()
        self._server = Server(self._allocator, procfs, self.show, limits)
        self._directories = [
            ServedDirectory(directory, self._names(directory), options.launcher, self._server, wakeups.publish.wake)
            for directory in options.service_dirs
        ]

    def start(self, earlier: TasksFile) -> None:
        """Adopt the tasks of an earlier agent, then install launchers and open sockets. Raises OSError."""
        ended = self._allocator.adopt(earlier.tasks)
        log.info("adopted %d tasks, %d had ended", len(self.ledger.tasks), len(ended))
        self._join_infra()
        self.layers.resume()
        for directory in self._directories:
            directory.start()

    @property
    def troubles(self) -> list[str]:
        """What does not work in which directory, as texts: launcher, socket, and notices of tasks."""
        found = [directory.troubles for directory in self._directories]
        return [text for troubles in (*found, self._notifier.troubles) for text in troubles.texts]

    @property
    def is_serving(self) -> bool:
        """Whether clients can reach the agent in any directory."""
        return any(directory.is_serving for directory in self._directories)

    async def change(self, now: SavedLayout, wanted: SavedLayout, plan: Plan) -> StartedChange:
        """Carry out a plan without refusals, and write the files. Others are served meanwhile, as far as the change does not concern them.

        The plan is that of the tasks as they are now. A core that changes hands is never shared: before the change it is open to its old
        owner alone, after it to its new one. ``settle`` is to follow.

        Raises NoRoomError or ChangeError when nothing has changed or everything is undone, StateError when it could not be undone.
        """
        steps = ordered_steps(plan, now.layout, wanted.layout)
        destinations: dict[Process, CpuSet] = {}
        for step in steps:
            destinations[step.process] = step.cpus | destinations.get(step.process, frozenset())
        self.ledger.announce(wanted.layout, destinations)
        try:
            change = await self._prepare(now, wanted, plan, steps)
            tasks = await with_pauses(self._change.move(change, booked=self._booked))
        except ChangeError:
            self._allocator.moved(now.layout, [*self.ledger.tasks.values()])
            self.layers.refit()
            raise
        self._allocator.moved(wanted.layout, tasks)
        self.layers.refit()
        for move in plan.moves:
            if self._has_moved(move):
                self._notifier.signal_task(move.after)
        return change

    async def settle(self, change: StartedChange) -> None:
        """Narrow masks that the kernel has widened since, of tasks that are as the change has left them."""
        await with_pauses(self._change.narrow_masks(change, self._has_moved))

    async def _prepare(self, now: SavedLayout, wanted: SavedLayout, plan: Plan, steps: tuple[Step, ...]) -> StartedChange:
        """Write the journal, then open the ways: not before, for some kernels widen masks with their cpusets. Raises ChangeError."""
        try:
            change = await with_pauses(self._change.write_journal(now, wanted, plan, steps))
        except StateError as error:
            self._change.forget()  # it may be on disk after all, and the next agent would carry out what is out of date by then
            raise ChangeError(str(error)) from error
        self.ledger.begin()
        self.layers.refit()
        return change

    def _has_moved(self, move: Move) -> bool:
        """Whether a task is as its move has left it: it may have ended since, or its process has asked for something else."""
        return self.ledger.tasks.get(move.task.process) == move.after

    def _booked(self, tasks: list[Task]) -> list[Task]:
        """Of the tasks of a change those that have not ended during it, and those that were booked meanwhile."""
        now, known = self.ledger.tasks, {task.process for task in tasks}
        return [task for task in tasks if task.process in now] + [task for task in now.values() if task.process not in known]

    def save(self) -> None:
        """Write tasks and grants."""
        self._allocator.save()

    def stop(self) -> None:
        """Close sockets and watches; the tasks run on, and isolation stays."""
        for directory in self._directories:
            directory.stop()
        self._server.close()
        self.layers.stop()
        self._allocator.close()

    def remove_files(self) -> None:
        """Remove launchers, sockets and notices from the host."""
        for directory in self._directories:
            directory.remove_files()
        self._notifier.remove_all()

    def show(self, request: Show) -> str:
        """The JSON that a request asks for. With many tasks it takes a while to make, so that it is made once for each change."""
        version, text = self._shown.get(request, (-1, ""))
        if version != self.ledger.version:
            text = self._render(request)
            self._shown[request] = self.ledger.version, text
        return text

    def _render(self, request: Show) -> str:
        path = str(self._options.state_dir)
        if request.what == "describe":
            content = description = report.describe(self.ledger, path)
        else:
            content = report.node_report(self.ledger, self._topology, path)
            description = content["description"]
        if request.old_names:
            report.use_old_names(description["pools"])
        return json.dumps(content, indent=2) + "\n"

    def _names(self, directory: Path) -> tuple[str, ...]:
        """Names of the launcher in a directory. Manifests written for kcm use the old one; they mount a directory of compat.hostDirs."""
        return (
            (launcher_files.LAUNCHER, launcher_files.OLD_LAUNCHER)
            if directory in self._options.host_dirs
            else (launcher_files.LAUNCHER,)
        )

    def _join_infra(self) -> None:
        try:
            self._allocator.join(INFRA, self._options.pod)
        except (Refused, AffinityError) as error:
            log.warning("the agent keeps its CPUs instead of those of pool %s: %s", INFRA, error)
