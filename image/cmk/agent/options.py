"""The options of one agent, from its command line, and the paths that follow from them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cmk.agent.limits import Limits
from cmk.isolation.layers import HostPaths
from cmk.legacy.predecessor import Traces


class Options(msgspec.Struct, frozen=True):
    """``pod`` is the uid of the agent's own pod, empty where it runs in none. ``host_dirs`` get a launcher and a socket like
    ``install_dir``. ``adopt_namespaces`` may have ConfigMaps of CMK 1.5.

    ``cgroups`` and ``irqs`` are the host's, None where the agent cannot write them; ``kubelet_socket`` is kubelet's pod-resources socket.
    ``daemonset`` names the agent's own DaemonSet, which is deleted when the chart is uninstalled. Leases that limit how many nodes change
    their pools at a time are named ``rollout_prefix``-0 and so on. ``limits`` are those of each pod.
    """

    node: str
    namespace: str
    config: str
    hosts_prefix: str
    install_dir: Path
    run_dir: Path
    state_dir: Path
    launcher: Path
    host_dirs: tuple[Path, ...] = ()
    require_request: bool = True
    health_port: int = 8086
    sys_root: Path = Path("/sys")
    proc_root: Path = Path("/proc")
    adopt_namespaces: tuple[str, ...] = ()
    cgroups: Path | None = None
    irqs: Path | None = None
    kubelet_socket: Path | None = None
    daemonset: str = ""
    rollout_prefix: str = "cmk-rollout"
    limits: Limits = Limits()
    pod: str = ""

    @property
    def service_dirs(self) -> tuple[Path, ...]:
        """Every directory with a launcher and a socket."""
        return tuple(dict.fromkeys((self.install_dir, *self.host_dirs)))

    @property
    def tasks_file(self) -> Path:
        """Tasks and grants; on a tmpfs, for a reboot ends all tasks."""
        return self.run_dir / "tasks.json"

    @property
    def layout_file(self) -> Path:
        """The layout, and the configuration it was made from."""
        return self.state_dir / "layout.json"

    @property
    def journal_file(self) -> Path:
        """The journal of a change of pools that has started."""
        return self.state_dir / "journal.json"

    @property
    def history_file(self) -> Path:
        """The history of pools."""
        return self.state_dir / "history.json"

    @property
    def isolation_file(self) -> Path:
        """The original state of all that isolation has changed."""
        return self.state_dir / "isolation.json"

    @property
    def host_paths(self) -> HostPaths:
        """The paths that the isolation layers read and write."""
        return HostPaths(self.isolation_file, self.cgroups, self.irqs)

    @property
    def traces(self) -> Traces:
        """The places where an older CMK may have left its state."""
        return Traces(self.node, self.service_dirs, self.adopt_namespaces, self.state_dir)

    @property
    def lock_file(self) -> Path:
        """The lock that the one agent holds that serves the node."""
        return self.state_dir / "agent.lock"
