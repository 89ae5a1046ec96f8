"""What one agent is told on its command line."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cmk.isolation.layers import HostPaths
from cmk.legacy.predecessor import Traces


class Options(msgspec.Struct, frozen=True):
    """Where the agent is and which directories are its own. ``host_dirs`` get a launcher and a socket like ``install_dir``.

    ``adopt_namespaces`` are looked into for what CMK 1.5 kept in ConfigMaps. ``cgroups`` and ``irqs`` are where the host's can be
    written, if they can; ``kubelet_socket`` where kubelet tells of CPUs; ``daemonset`` is the agent's own, which is gone when the chart
    is uninstalled. ``rollout_prefix`` begins the names of Leases that limit how many nodes change at a time.
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

    @property
    def service_dirs(self) -> tuple[Path, ...]:
        """Every directory with a launcher and a socket."""
        return tuple(dict.fromkeys((self.install_dir, *self.host_dirs)))

    @property
    def tasks_file(self) -> Path:
        """Tasks and grants: lost with a reboot, as they should be."""
        return self.run_dir / "tasks.json"

    @property
    def layout_file(self) -> Path:
        """The layout and what it was made from."""
        return self.state_dir / "layout.json"

    @property
    def journal_file(self) -> Path:
        """A change of pools that has begun."""
        return self.state_dir / "journal.json"

    @property
    def history_file(self) -> Path:
        """The last changes of pools."""
        return self.state_dir / "history.json"

    @property
    def isolation_file(self) -> Path:
        """How everything was before it was kept off exclusive cores."""
        return self.state_dir / "isolation.json"

    @property
    def host_paths(self) -> HostPaths:
        """What the isolation layers read and write."""
        return HostPaths(self.isolation_file, self.cgroups, self.irqs)

    @property
    def traces(self) -> Traces:
        """Where an older CMK may have left its state."""
        return Traces(self.node, self.service_dirs, self.adopt_namespaces, self.state_dir)

    @property
    def lock_file(self) -> Path:
        """Held by the node's one allocator."""
        return self.state_dir / "agent.lock"
