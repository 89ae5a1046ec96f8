"""Limits of what one pod may have of the agent, and the number of files that the agent may open."""

from __future__ import annotations

import logging
import resource

import msgspec

log = logging.getLogger(__name__)

# Descriptors that no client gets: for state files, procfs, watches of the API server, probes.
_RESERVED_FILES = 128
_FILES_PER_CONNECTION = 2  # the socket and the pidfd of its client
# The connections of a pod take no more than this part of all descriptors of clients, and its tasks no more than another.
_PARTS = 4


class Limits(msgspec.Struct, frozen=True):
    """Limits of each pod, and of each user outside pods: ``connections`` that are open, requests that are ``waiting``, ``tasks``.

    ``requests_per_second`` are served; as many may come at once after a pause, further ones are served as late as that.
    """

    connections: int = 256
    waiting: int = 200
    tasks: int = 1000
    requests_per_second: int = 100

    def fitting(self, files: int) -> Limits:
        """These limits, lowered where one pod would otherwise get a large part of the ``files`` that the agent may open."""
        share = files_of_clients(files) // _PARTS
        connections = min(self.connections, max(share // _FILES_PER_CONNECTION, 1))
        tasks = min(self.tasks, max(share, 1))
        if (connections, tasks) != (self.connections, self.tasks):
            log.warning(
                "the agent may open %d files only: a pod gets %d connections instead of %d, and %d tasks instead of %d; "
                "raise the limit of open files (LimitNOFILE) of the container runtime",
                *(files, connections, self.connections, tasks, self.tasks),
            )
        return msgspec.structs.replace(self, connections=connections, tasks=tasks)


def raise_number_of_files() -> None:
    """Open as many files as the kernel allows, as programs may that do not use select(2): container runtimes often start with 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def number_of_files() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def files_of_clients(files: int) -> int:
    """How many of the ``files`` that the agent may open are for clients and tasks."""
    return files - min(_RESERVED_FILES, files // 2)
