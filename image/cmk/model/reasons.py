"""The reasons in a NodeReport's conditions: single words that the agent writes, and that ``cmk hook verify`` and users' scripts read."""

from __future__ import annotations

from enum import StrEnum


class Obstacle(StrEnum):
    """Why a node does not have the configuration that holds for it. ``fleet.rollout`` says of each whether waiting helps."""

    CONFIG_INVALID = "ConfigInvalid"
    LAYOUT_IMPOSSIBLE = "LayoutImpossible"
    CONFIG_REFUSED = "ConfigRefused"
    MACHINE_CHANGED = "MachineChanged"
    PAUSED = "Paused"
    WAITING = "Waiting"
    OLD_CMK_RUNS = "OldCmkRuns"
    ADOPTION_REFUSED = "AdoptionRefused"
    STATE_UNUSABLE = "StateUnusable"


class Reason(StrEnum):
    """All other reasons of conditions."""

    # Ready, ConfigApplied
    SERVING = "Serving"
    APPLIED = "Applied"
    CHANGING = "Changing"
    # ConfigRefused
    REFUSED = "Refused"
    # Isolated
    LAYERS_ON = "LayersOn"
    LAYERS_OFF = "LayersOff"
    CONFLICT = "Conflict"
    NOT_POSSIBLE = "NotPossible"
    # Conflict
    OTHER_MANAGER = "OtherManager"
    # Reduced
    MANY_TASKS = "ManyTasks"
    REPORT_REFUSED = "ReportRefused"
    # ConfigRefused, Conflict, Reduced
    NONE = "None"
