"""Removal of everything from a directory of installed packages that cmk does not need. Usage: prune.py DIRECTORY; prints what stays.

The kubernetes client has 126 MB of generated models and half a dozen libraries for them. cmk uses its configuration, its credentials and
its transport (see cmk/kube/client.py), which need none of that, but the __init__ files of its packages import everything: they are emptied
here. The build runs the pruned tree afterwards, so that a missing module breaks the build, not a node.
"""

import compileall
import py_compile
import shutil
import sys
from pathlib import Path

# Top-level packages that stay: those that cmk, the transport of kubernetes, typer and cryptography import.
KEEP = {
    "cmk",
    "kubernetes",
    "urllib3",
    "typing_extensions.py",
    "msgspec",
    "typer",
    "click",
    "shellingham",
    "annotated_doc",
    "yaml",
    "uvicorn",
    "httptools",
    "prometheus_client",
    "cryptography",
    "_cffi_backend",
    "grpclib",
    "h2",
    "hpack",
    "hyperframe",
    "multidict",
}
# Files of the kubernetes client that stay, and their new content (None: as it is).
KUBERNETES = {
    "__init__.py": "",
    "client/__init__.py": "from kubernetes.client.configuration import Configuration\n",
    "client/configuration.py": None,
    "client/exceptions.py": None,
    "client/rest.py": None,
    "config/__init__.py": "",
    "config/config_exception.py": None,
    "config/incluster_config.py": None,
    "utils/__init__.py": "",
    "utils/_retry_base.py": None,
    "utils/keepalive.py": None,
    "utils/retry.py": None,
}


def main(root: Path) -> None:
    """Prune the tree, compile it and print what stays."""
    for path in root.iterdir():
        if path.name.split(".cpython")[0] not in KEEP:
            remove(path)
    for path in sorted((root / "kubernetes").rglob("*"), reverse=True):
        name = str(path.relative_to(root / "kubernetes"))
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif name not in KUBERNETES:
            path.unlink()
        elif KUBERNETES[name] is not None:
            path.write_text(KUBERNETES[name])
    # Small files need no libyaml, which has 2.5 MB.
    for path in (root / "yaml").glob("_yaml*.so"):
        remove(path)
    for path in [*root.rglob("__pycache__"), *root.rglob("tests"), *root.rglob("*.pyi"), *root.rglob("py.typed")]:
        remove(path)
    # Unchecked hashes: without time stamps in the files, the same input gives the same image; and a start does not read the sources.
    compileall.compile_dir(root, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, stripdir=str(root))
    for path in sorted(root.iterdir(), key=size, reverse=True):
        print(f"{size(path) / 1e6:7.2f} MB  {path.name}")


def remove(path: Path) -> None:
    """Remove a file or a whole directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def size(path: Path) -> int:
    """Bytes of a file or of everything below a directory."""
    return path.stat().st_size if path.is_file() else sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


main(Path(sys.argv[1]))
