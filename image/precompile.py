"""Byte code of the standard library's modules that cmk imports. Usage: precompile.py DIRECTORY; the files go below it as they go below /.

Images of Python have no byte code, and a container's file system keeps none for the next start: every start would compile half of the
standard library anew. The byte code is tied to its sources by their hashes, for copying files into an image changes their times; so byte
code of another Python's sources is not used.
"""

import importlib
import py_compile
import sys
import sysconfig
from pathlib import Path

# The modules that the processes of the chart import, also late: agent, hooks, keeper and webhook.
ENTRIES = [
    "cmk.cli.app",
    "cmk.agent.main",
    "cmk.certificates.keeper",
    "cmk.fleet.verify",
    "cmk.fleet.cluster_nodes",
    "cmk.kube.lease",
    "cmk.isolate.launch",
    "cmk.webhook.process",
]


def main(out: Path) -> None:
    """Import the entries, then compile all modules of the standard library that this has loaded."""
    for name in ENTRIES:
        importlib.import_module(name)
    library = Path(sysconfig.get_path("stdlib"))
    for module in list(sys.modules.values()):
        source = Path(getattr(module, "__file__", None) or "/")
        if source.is_relative_to(library) and source.suffix == ".py":
            target = out / Path(importlib.util.cache_from_source(str(source))).relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            py_compile.compile(
                str(source), str(target), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
            )


main(Path(sys.argv[1]))
