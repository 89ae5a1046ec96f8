"""The agent's life: wait for the lock, find or make the layout, serve, publish, and leave in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from typing import Any

from cmk import __version__
from cmk.agent import health, node_report
from cmk.agent.change_pools import Reconfigure
from cmk.agent.files import StateFiles
from cmk.agent.history import APPLIED, History
from cmk.agent.node_layout import NodeLayout
from cmk.agent.options import Options
from cmk.agent.publisher import Marks, Publisher
from cmk.agent.rollout_limit import RolloutLimit
from cmk.agent.service import Service
from cmk.agent.watches import ClusterView, see
from cmk.host import state
from cmk.host.procfs import Procfs
from cmk.host.sysfs import read_topology
from cmk.isolation.conflicts import KubeletCpuManager
from cmk.kube.client import Api, ApiError, Json
from cmk.kube.node import labels
from cmk.legacy import tree
from cmk.legacy.predecessor import Predecessor
from cmk.model import cpuset
from cmk.model.advertise import offered
from cmk.model.layout import SavedLayout
from cmk.model.pods import resource_of

log = logging.getLogger(__name__)

UNAUTHORIZED, FORBIDDEN = 401, 403


class Agent:
    """One node's agent; ``run`` returns when it was told to stop."""

    def __init__(self, options: Options, api: Api) -> None:
        self._options = options
        self._api = api
        self._procfs = Procfs(options.proc_root)
        self._files = StateFiles(options, self._procfs)
        self._lock = state.NodeLock(options.lock_file)
        self._view = ClusterView(api, options, self._on_view, self._on_pods)
        self._kubelet = KubeletCpuManager(options.kubelet_socket, self._on_view)
        self._publisher = Publisher(api, options.node, self._view, self._marks, self._report)
        self._layout = NodeLayout(
            options.node,
            self._files,
            read_topology(options.sys_root, options.proc_root / "cmdline"),
            self._publisher.tell,
        )
        self._history = History(options.history_file)
        limit = RolloutLimit(api, options.namespace, options.rollout_prefix, options.node)
        self._reconfigure = Reconfigure(self._layout, self._view, self._publisher, self._history, limit, lambda: self._service)
        self._predecessor = Predecessor(api, options.traces, self._view.list_pods, self._layout.topology)
        self._service: Service | None = None
        self._leads = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises StateError, InstallError or OSError when it cannot go on."""
        loop = asyncio.get_running_loop()
        stop = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _finish, stop, None)
        # Whatever a callback did not expect ends the agent: its successor reads the state afresh.
        loop.set_exception_handler(lambda _, context: _finish(stop, _error_of(context)))
        # Ready while it waits for the lock: a roll-out ends the old agent only when the new one is ready.
        probes = await health.serve(self._options.health_port, lambda: "")
        self._view.start()
        turn = _in_daemon_thread(self._lock.acquire)
        await asyncio.wait({turn, stop}, return_when=asyncio.FIRST_COMPLETED)
        if turn.done():
            turn.result()
            await self._lead(stop)
        probes.close()
        stop.result()

    async def _lead(self, stop: asyncio.Future[None]) -> None:
        log.info("agent %s leads node %s", __version__, self._options.node)
        self._leads = True
        loop = asyncio.get_running_loop()
        working: set[asyncio.Future[None]] = {
            loop.create_task(work) for work in (self._publisher.run(), self._kubelet.run(), self._reconfigure.run())
        }
        try:
            self._resume()
            if self._service is None:
                working.add(loop.create_task(self._predecessor.look(self._on_view)))
            # The looks end well by themselves; anything else that ends, ends the agent.
            while not stop.done():
                done, working = await asyncio.wait({*working, stop}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stop}:
                    task.result()
                working -= {stop}
        finally:
            for task in working:
                task.cancel()
            await self._leave()

    def _resume(self) -> None:
        if done := self._files.change().resume():
            journal, problem = done
            hashes = journal.old.section.hash, journal.new.section.hash
            self._history.add(*hashes, len(journal.plan.moves), 0, f"undone: {problem}" if problem else APPLIED)
        found = self._files.read_tasks()
        self._view.pods.remember(found.pods)
        self._layout.resume(in_use=bool(found.tasks))
        if self._layout.saved is not None:
            self._serve(self._layout.saved)
        self._on_view()

    def _serve(self, saved: SavedLayout) -> None:
        service = Service(self._options, self._files, saved.layout, self._layout.topology, self._view.pods, self._on_ledger)
        service.start(self._files.read_tasks())
        self._service = service
        for pool in saved.layout.pools.values():
            kind = "exclusive" if pool.exclusive else "shared"
            log.info("pool %s (%s): CPUs %s", pool.name, kind, cpuset.kernel_list(pool.cpus) or "none")
        for warning in saved.layout.warnings:
            log.warning("%s", warning)

    def _on_view(self) -> None:
        """The API server told something new about node, configuration or report."""
        if not self._leads:
            return
        if self._service is None and (saved := self._first_layout()) is not None:
            self._serve(saved)
        self._isolate()
        self._reconfigure.poke()
        self._publisher.poke()

    def _on_ledger(self) -> None:
        self._reconfigure.poke()
        self._publisher.poke()

    def _isolate(self) -> None:
        """Isolation follows the configuration, also where pools do not (yet)."""
        seen = see(self._view)
        chosen = seen.chosen
        self._layout.follow(seen)
        if self._service is None or chosen is None or not self._view.pods_known or not self._kubelet.known:
            return
        conflict = self._view.conflict or self._kubelet.conflict
        self._service.layers.apply(chosen.section.isolation, conflict, self._kubelet.doubt)

    def _first_layout(self) -> SavedLayout | None:
        """What an older CMK left, or what the configuration asks for; nothing while an older CMK is at work."""
        before = self._predecessor
        if not before.looked:
            return None
        if before.reason is not None:
            self._layout.refuse(before.reason, before.problem)
            return None
        seen = see(self._view)
        if before.found is None:
            return self._layout.make(seen)
        if seen.chosen is None:
            return None
        tasks, dropped = tree.living_tasks(before.found, self._procfs)
        for reason in dropped:
            log.info("dropped: %s", reason)
        # Tasks first: killed before the layout is there, the next agent starts over.
        self._files.write_tasks(tasks, pods=())
        saved = self._layout.take_over(before.found, before.source, seen)
        before.set_aside()
        return saved

    def _on_pods(self) -> None:
        if self._service is not None:
            try:
                self._service.save()
            except state.StateError as error:
                log.error("%s", error)  # the next allocation says so to whoever asks
        self._on_ledger()

    def _marks(self) -> Marks | None:
        saved = self._layout.saved
        if saved is None or self._service is None:
            return None  # an impossible or unread configuration leaves a node untouched
        seen = see(self._view)
        section = seen.chosen.section if seen.chosen else saved.section
        lists = {resource_of(pool.name): len(pool.lists) for pool in saved.layout.pools.values() if pool.exclusive}
        if coming := self._reconfigure.coming:
            pods = [pod for pod in self._view.pods.all.values() if not pod.terminal]
            lists = offered(saved.layout, coming, self._service.ledger.tasks.values(), pods)
        return Marks(lists, taint=section.taint)

    def _report(self) -> Json | None:
        service, view = self._service, self._view
        ledger, layers = (service.ledger, service.layers) if service else (None, None)
        pods, history, path = view.pods.all.values(), self._history.entries, str(self._options.state_dir)
        return node_report.body(self._layout, ledger, layers, see(view), view.report, path, pods, history)

    async def _leave(self) -> None:
        """Stop serving; take everything back when the node is no longer ours; let the next agent in."""
        if self._service is not None:
            self._service.stop()
        try:
            if self._is_deselected() and await self._publisher.withdraw():
                log.info("node %s left the selection: everything taken back", self._options.node)
                if self._service is not None:
                    self._service.layers.undo()
                    self._service.remove_files()
                self._layout.forget()
                self._history.forget()
            elif self._service is not None and await self._is_uninstalled():
                self._service.layers.undo()
                log.info("the chart is being uninstalled: isolation undone")
        except ApiError as error:
            log.error("node %s left the selection, but: %s", self._options.node, error)
        finally:
            self._lock.release()

    def _is_deselected(self) -> bool:
        selection, node = self._view.selection, self._view.node
        return selection is not None and node is not None and not selection.matches(self._options.node, labels(node))

    async def _is_uninstalled(self) -> bool:
        """Whether our own DaemonSet is gone or going; a lost right to look says the same. Unknown counts as no: cores stay closed."""
        options = self._options
        if not options.daemonset:
            return False
        path = f"/apis/apps/v1/namespaces/{options.namespace}/daemonsets/{options.daemonset}"
        try:
            found = await asyncio.to_thread(self._api.find, path)
        except ApiError as error:
            return error.status in (UNAUTHORIZED, FORBIDDEN)
        return found is None or "deletionTimestamp" in found["metadata"]


def _finish(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _error_of(context: dict[str, Any]) -> BaseException:
    log.error("%s", context.get("message"), exc_info=context.get("exception"))
    return context.get("exception") or RuntimeError(context.get("message"))


def _in_daemon_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run something that may block for ever without holding up the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except state.StateError as failure:
            error = failure
        loop.call_soon_threadsafe(_finish, future, error)

    threading.Thread(target=run, name="lock", daemon=True).start()
    return future
