"""Byte code of the standard library's modules that cmk runs on. Usage: precompile.py DIRECTORY, in which it lies as it has to lie below /.

Images of Python come without byte code, and copying files into an image changes their times, by which byte code is known: either way every
start would compile its half of the standard library anew, and a container may write nothing that the next could use. By their hashes files
are known whatever their times say, and byte code of another Python's sources is left alone.
"""

import importlib
import py_compile
import sys
import sysconfig
from pathlib import Path

# What each process of the chart imports: agent, hooks, keeper and webhook, with what they import late.
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
    """Import, then compile what that has brought."""
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
