"""Dispatch: what a workload starts takes the fast path and imports nothing heavy; all else goes to the command line."""

import sys


def main() -> int:
    """Entry point of ``cmk`` and ``python -m cmk``."""
    if sys.argv[1:2] == ["isolate"]:
        from cmk.isolate import launch  # noqa: PLC0415

        return launch.main(sys.argv[2:])
    from cmk.cli import app  # noqa: PLC0415

    app.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
