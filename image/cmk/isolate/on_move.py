"""``--on-move`` in direct mode: its value, and the file that tells a task its CPUs. In a cluster both are the agent's."""

import posix

from cmk.isolate.say import LATER, NEVER, Failure


def parse(text: str) -> dict:  # type: ignore[type-arg]
    """The value of ``--on-move`` as ``cmk.model.onmove`` reads it, with the same error texts; raises Failure."""
    how, colon, name = text.partition(":")
    number = 0
    if colon:
        import _signal  # type: ignore[import-not-found]  # noqa: PLC0415  # no stub; signal itself would import enum

        word = name.upper()
        number = getattr(_signal, word if word.startswith("SIG") else f"SIG{word}", 0)
        if how != "notify" or type(number) is not int or number in (0, 9, 19):
            text = f"on-move {text[:40]!r}: only notify takes a signal, and one that can be caught, as in notify:SIGHUP"
            raise Failure(NEVER, text)
    if how not in ("follow", "pinned", "notify"):
        raise Failure(NEVER, f"on-move {text[:40]!r} is none of follow, pinned, notify, notify:SIGNAL")
    return {"how": how, "signal": number}


def notice_path(directory: str, process: dict[str, int]) -> str:
    """Path of the file in which a task with ``notify`` finds its CPUs; makes its directory. Raises Failure."""
    path = f"{directory}/state"
    try:
        posix.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        raise Failure(LATER, f"cannot make {path}: {error.strerror}") from None
    return f"{path}/{process['pid']}-{process['start']}.json"
