"""The agent of a node, from start to end: wait for the lock, find or make the layout, serve, and leave in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from cmk import __version__
from cmk.agent import health, node_report
from cmk.agent.change_pools import ChangePools
from cmk.agent.files import StateFiles
from cmk.agent.health import Readiness
from cmk.agent.history import APPLIED, History
from cmk.agent.node_layout import Impossible, NodeLayout, Wanted
from cmk.agent.observed import Observed
from cmk.agent.options import Options
from cmk.agent.publisher import Marks, Publisher
from cmk.agent.recovery import Recovery, UnfitError
from cmk.agent.rollout_limit import RolloutLimit
from cmk.agent.service import Service
from cmk.agent.stalls import Stalls
from cmk.agent.wakeups import Wakeups
from cmk.agent.watches import Watches
from cmk.host import state
from cmk.host.procfs import Procfs
from cmk.host.sysfs import read_topology
from cmk.isolation.conflicts import KubeletCpuManager
from cmk.kube.client import Api, ApiError, Json
from cmk.legacy import tree
from cmk.legacy.predecessor import Predecessor
from cmk.model import cpuset
from cmk.model.advertise import offered
from cmk.model.layout import SavedLayout
from cmk.model.pods import Pod, resource_of
from cmk.model.reasons import Obstacle
from cmk.model.report import Refusal

log = logging.getLogger(__name__)

UNAUTHORIZED, FORBIDDEN = 401, 403
SECONDS_BETWEEN_ATTEMPTS = 10.0


class Agent:
    """The agent of one node. It serves the node while it holds the node's lock."""

    def __init__(self, options: Options, api: Api, stalls: Stalls | None = None) -> None:
        self._options = options
        self._stalls = stalls or Stalls()
        self._api = api
        self._procfs = Procfs(options.proc_root, options.host_paths.cgroups)
        self._files = StateFiles(options, self._procfs)
        self._lock = state.NodeLock(options.lock_file)
        self._wakeups = Wakeups()
        self._watches = Watches(api, options, self._on_event)
        self._kubelet = KubeletCpuManager(options.kubelet_socket, self._on_event)
        self._publisher = Publisher(api, options.node, self._watches, self._wakeups, self._marks, self._report)
        topology = read_topology(options.sys_root, options.proc_root / "cmdline")
        self._layout = NodeLayout(options.node, self._files, topology)
        self._history = History(options.history_file)
        self._recovery = Recovery(self._files, self._procfs)
        self._predecessor = Predecessor(api, options.traces, self._watches.list_pods, topology)
        self._refusal: Impossible | None = None
        self._service: Service | None = None
        self._change_pools: ChangePools | None = None
        self._saved_pods: Mapping[str, Pod] = {}
        self._leads = False
        self._next_attempt: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises StateError, InstallError or OSError when it cannot go on."""
        loop = asyncio.get_running_loop()
        stop = self._stop = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _finish, stop, None)
        # An exception that no callback expects ends the agent: the next one reads the state afresh.
        loop.set_exception_handler(lambda _, context: self._on_error(_error_of(context)))
        probes = await health.serve(self._options.health_port, self._readiness)
        try:
            self._watches.start()
            acquired = _in_daemon_thread(self._lock.acquire)
            await asyncio.wait({acquired, stop}, return_when=asyncio.FIRST_COMPLETED)
            if acquired.done():
                acquired.result()
                await self._lead(stop)
        finally:
            probes.close()
        stop.result()

    def _on_error(self, error: BaseException) -> None:
        if self._stop.done() and self._change_pools is not None:  # the change that is waited for goes by what is in doubt now
            self._change_pools.give_up()
        _finish(self._stop, error)

    def _readiness(self) -> Readiness:
        """Ready: it serves workloads, or waits for the lock of an agent that does, and knows what the API server has.

        A roll-out ends the old agent only when the new one, which waits, is ready.
        """
        trouble = self._watches.trouble
        if not self._leads:
            if not state.is_locked(self._options.lock_file):
                return Readiness(False, "about to lead the node")
            text = "standing by: another agent serves this node"
        elif self._service is None:
            refusal = self._refusal
            return Readiness(False, f"{refusal.reason}: {refusal.text}" if refusal else trouble or "has no configuration yet")
        elif not self._service.is_serving:
            return Readiness(
                False, f"no workload can reach the agent: {'; '.join(self._service.troubles) or 'its socket is gone'}"
            )
        else:
            text = "ok"
        return Readiness(False, f"what the API server has may not be known: {trouble}") if trouble else Readiness(True, text)

    async def _lead(self, stop: asyncio.Future[None]) -> None:
        log.info("agent %s leads node %s", __version__, self._options.node)
        self._leads = True
        try:
            self._start_task(self._publisher.run())
            self._start_task(self._kubelet.run())
            self._resume()
            if self._service is None:
                self._start_task(self._predecessor.look(self._on_event))
            await asyncio.wait({stop})
        finally:
            if self._next_attempt is not None:
                self._next_attempt.cancel()
            for task in self._tasks:
                task.cancel()
            await self._leave()

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """A task that fails ends the agent; a task that has nothing to do any more just returns."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _finish(self._stop, error)

    def _resume(self) -> None:
        """Go on from the state of an earlier agent. While that cannot be done, nobody is served, and it is tried again and again."""
        self._next_attempt = None
        try:
            self._resume_change()
            self._recovery.read()
        except state.StateError as error:
            self._refuse_state(error)
            self._wakeups.wake_both()
            return
        self._watches.remember(self._recovery.tasks.pods)
        self._layout.resume(self._recovery.layout, in_use=bool(self._recovery.tasks.tasks))
        if self._layout.saved is not None:
            self._serve_again(self._layout.saved)
        self._on_event()

    def _serve_again(self, saved: SavedLayout) -> None:
        """Serve the layout of an earlier agent, or, if it is not the last one and does not fit, the one that the configuration asks for."""
        try:
            self._serve(saved)
        except UnfitError as error:
            if self._recovery.layout_doubt:
                self._layout.saved = None
                self._on_event()
            if self._service is None and self._next_attempt is None:
                self._refuse_state(error)

    def _resume_change(self) -> None:
        """Finish, undo or forget a change of pools that was interrupted. Raises StateError."""
        change = self._files.change()
        try:
            done = change.resume()
        except state.DamagedError as damage:
            self._recovery.discard_journal(damage)
            self._tell_recovered(f"{damage}: forgotten, as no task that it may have moved runs any more")
            return
        if change.fault:
            self._tell_recovered(change.fault)
        if done:
            journal, problem = done
            hashes = journal.old.section.hash, journal.new.section.hash
            self._history.add(*hashes, len(journal.plan.moves), 0, f"undone: {problem}" if problem else APPLIED)

    def _tell_recovered(self, text: str) -> None:
        log.warning("%s", text)
        self._publisher.queue_event("StateRecovered", text)

    def _serve(self, saved: SavedLayout) -> None:
        """Serve a layout. Raises UnfitError when damage of the state leaves open who owns what; else what ends the agent."""
        earlier = self._recovery.tasks_on(saved.layout)
        service = Service(self._options, self._files, saved.layout, self._layout.topology, self._watches.pods, self._wakeups)
        service.start(earlier)
        self._service = service
        self._refusal = None
        self._settle(saved, len(earlier.tasks))
        if service.layers.fault:
            self._publisher.queue_event("StateRecovered", service.layers.fault)
        limit = RolloutLimit(self._api, self._options.namespace, self._options.rollout_prefix, self._options.node)
        self._change_pools = ChangePools(
            self._layout, service, self._watches, self._publisher, self._history, limit, self._wakeups
        )
        self._start_task(self._change_pools.run())
        for pool in saved.layout.pools.values():
            kind = "exclusive" if pool.exclusive else "shared"
            log.info("pool %s (%s): CPUs %s", pool.name, kind, cpuset.kernel_list(pool.cpus) or "none")
        for warning in saved.layout.warnings:
            log.warning("%s", warning)

    def _settle(self, saved: SavedLayout, tasks: int) -> None:
        """Say once what was damaged, and write it anew."""
        try:
            doubts = self._recovery.settle(saved)
        except state.StateError as error:
            log.error("%s", error)
            return
        for doubt in doubts:
            self._tell_recovered(
                f"{doubt}; {tasks} tasks are known, owners of exclusive cores by what their processes are confined to"
            )

    def _on_event(self) -> None:
        """Act on what the API server, kubelet or the search for an older CMK has brought."""
        if not self._leads:
            return
        observed = self._watches.observed
        if self._service is None and self._next_attempt is None:
            self._begin(observed)
        if self._service is not None:
            self._save_pods(self._service, observed)
            self._isolate(self._service, observed)
        self._wakeups.wake_both()

    def _begin(self, observed: Observed) -> None:
        """Serve the first layout, once there is one."""
        try:
            if (saved := self._first_layout(observed)) is not None:
                self._serve(saved)
        except state.StateError as error:
            self._refuse_state(error)

    def _refuse_state(self, error: state.StateError) -> None:
        """Serve nobody until the next attempt."""
        self._refuse(Impossible(Obstacle.STATE_UNUSABLE, str(error)))
        self._next_attempt = asyncio.get_running_loop().call_later(SECONDS_BETWEEN_ATTEMPTS, self._resume)

    def _save_pods(self, service: Service, observed: Observed) -> None:
        """Write pods with grants to the task file, for an agent that starts without an API server."""
        if observed.pods is self._saved_pods:
            return
        self._saved_pods = observed.pods
        try:
            service.save()
        except state.StateError as error:
            log.error("%s", error)  # the next allocation fails with it too

    def _isolate(self, service: Service, observed: Observed) -> None:
        """Apply the configuration's isolation, also while its pools cannot be applied (yet)."""
        if observed.chosen is not None and observed.pods_known and self._kubelet.known:
            conflict = observed.other_managers or self._kubelet.conflict
            service.layers.apply(observed.chosen.section.isolation, conflict, self._kubelet.doubt)

    def _first_layout(self, observed: Observed) -> SavedLayout | None:
        """Save the layout of an older CMK, or the one that the configuration asks for; None while neither is possible.

        Raises StateError.
        """
        before = self._predecessor
        if not before.looked:
            return None
        if before.reason is not None:
            self._refuse(Impossible(before.reason, before.problem))
            return None
        return self._adopt(observed) if before.taken_over is not None else self._make_layout(observed)

    def _make_layout(self, observed: Observed) -> SavedLayout | None:
        match self._layout.wanted(observed):
            case Wanted(saved):
                self._recovery.tasks_on(saved.layout)  # or else the layout is not written
                self._layout.keep(saved)
                self._publisher.queue_layout_warnings(saved.layout)
                return saved
            case Impossible() as refusal:
                self._refuse(refusal)
        return None

    def _adopt(self, observed: Observed) -> SavedLayout | None:
        before = self._predecessor
        if before.taken_over is None or (saved := self._layout.adopted(before.taken_over, before.source, observed)) is None:
            return None
        tasks, dropped = tree.living_tasks(before.taken_over, self._procfs)
        for reason in dropped:
            log.info("dropped: %s", reason)
        # Tasks first: if this agent is killed before it has written the layout, the next one adopts again.
        self._files.write_tasks(tasks, pods=())
        self._recovery.read()
        self._layout.keep(saved)
        log.info("took over the pools of %s", before.source)
        before.set_aside()
        return saved

    def _refuse(self, refusal: Impossible) -> None:
        """Serve nobody, and say why: in the report, and once in log and events."""
        if self._refusal is None or refusal.text != self._refusal.text:
            log.error("%s: %s", refusal.reason, refusal.text)
            self._publisher.queue_event(refusal.reason, refusal.text)
        self._refusal = refusal

    def _marks(self, observed: Observed) -> Marks | None:
        saved, service, change_pools = self._layout.saved, self._service, self._change_pools
        if saved is None or service is None or change_pools is None:
            return None  # a node without pools stays as it is
        section = observed.chosen.section if observed.chosen else saved.section
        resources = {resource_of(pool.name): len(pool.lists) for pool in saved.layout.pools.values() if pool.exclusive}
        if coming := change_pools.coming:
            resources = offered(saved.layout, coming, service.ledger.tasks.values(), observed.active_pods)
        return Marks(resources, taint=section.taint)

    def _report(self, observed: Observed, stored: Json | None, refusal: Refusal) -> Json | None:
        path, saved = str(self._options.state_dir), self._layout.saved
        if saved is not None and self._service is not None and self._change_pools is not None:
            ledger, layers, pending = self._service.ledger, self._service.layers, self._change_pools.pending
            troubles = self._service.troubles
            content = node_report.served(self._layout, saved, ledger, layers, pending, observed, path, refusal, troubles)
        elif self._refusal is not None:
            content = node_report.refused(self._layout, self._refusal, observed, path)
        else:
            return None
        return node_report.body(self._layout, content, stored, self._stalls, refusal, self._history.entries)

    async def _leave(self) -> None:
        """Stop serving. Undo everything if the node is not selected any more, isolation if the chart is uninstalled. Release the lock."""
        await self._end_change()
        if self._service is not None:
            self._service.stop()
        try:
            if self._is_deselected() and await self._publisher.withdraw():
                log.info("node %s is not selected any more: removed the agent's traces", self._options.node)
                if self._service is not None:
                    self._service.layers.undo()
                    self._service.remove_files()
                self._layout.forget()
                self._history.forget()
            elif self._service is not None and await self._is_uninstalled():
                self._service.layers.undo()
                log.info("the chart is being uninstalled: isolation undone")
        except state.StateError as error:
            log.error("%s", error)
        except ApiError as error:
            log.error("node %s is not selected any more, but keeps the agent's traces: %s", self._options.node, error)
        finally:
            self._lock.release()

    async def _end_change(self) -> None:
        """Finish a change of pools that has begun. After an error that nobody expected the next agent does that, from the files."""
        if self._change_pools is None:
            return
        if self._stop.done() and self._stop.exception() is not None:
            self._change_pools.give_up()
            return
        try:
            await self._change_pools.settled()
        except (state.StateError, OSError, asyncio.CancelledError) as error:
            log.error("the change of pools is left to the next agent: %s", error)

    def _is_deselected(self) -> bool:
        observed = self._watches.observed
        selection, node = observed.selection, observed.node
        return selection is not None and node is not None and not selection.matches(self._options.node, observed.labels)

    async def _is_uninstalled(self) -> bool:
        """Whether the agent's DaemonSet is deleted, or its rights are. If the API server does not answer it is not: cores stay closed."""
        options = self._options
        if not options.daemonset:
            return False
        path = f"/apis/apps/v1/namespaces/{options.namespace}/daemonsets/{options.daemonset}"
        try:
            daemonset = await asyncio.to_thread(self._api.find, path)
        except ApiError as error:
            return error.status in (UNAUTHORIZED, FORBIDDEN)
        return daemonset is None or "deletionTimestamp" in daemonset["metadata"]


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
    """Run ``work``, which may block for ever, in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except state.StateError as failure:
            error = failure
        if not loop.is_closed():
            loop.call_soon_threadsafe(_finish, future, error)

    threading.Thread(target=run, name="lock", daemon=True).start()
    return future
