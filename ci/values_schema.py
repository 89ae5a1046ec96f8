"""Print values.schema.json of the chart: the shape of values.yaml in the terms of cmk's own configuration types."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from cmk.model.config import PoolConfig

_KINDS = {field.name: field.type for field in msgspec.structs.fields(PoolConfig)}
# The agent's type, and null: the chart's templates refuse null with a message that says what to write instead.
Cores = _KINDS["cores"] | None
Cpus = _KINDS["cpus"]
Mode = _KINDS["mode"]
Prefer = _KINDS["prefer"]
Directory = Annotated[str, Meta(pattern=r"^/[^\s:]*[^\s:/]$", description="absolute path")]
Level = Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "critical", "error", "warning", "info", "debug"]
Labels = dict[str, str]
Kubernetes = dict[str, Any]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """An object in which unknown keys are errors."""


class Pool(Strict):
    """One pool in one scope. Keys left out come from the scope below."""

    cores: Cores | UnsetType = UNSET
    cpus: Cpus | UnsetType = UNSET
    exclusive: bool | UnsetType | None = UNSET
    mode: Mode | UnsetType | None = UNSET
    prefer: Prefer | UnsetType = UNSET


class Reserved(Strict):
    """CPUs that are in no pool."""

    cpus: Cpus | Literal["", "auto"] | UnsetType = UNSET


class Isolation(Strict):
    """Layers of isolation. YAML reads a bare off as false and a bare on as true."""

    pods: bool | UnsetType | None = UNSET
    ownPod: bool | UnsetType | None = UNSET
    host: Literal["off", "affinity", "slices", False] | UnsetType | None = UNSET
    irqs: Literal["off", "on"] | bool | UnsetType | None = UNSET
    partition: Literal["off", "auto", False] | UnsetType | None = UNSET
    idle: Literal["reserved", "lend"] | UnsetType | None = UNSET


class Scope(Strict):
    """Keys that the default, groups and hosts have in common."""

    pools: dict[str, Pool | None] | UnsetType = UNSET
    taint: bool | None = None
    paused: bool | None = None
    reserved: Reserved | UnsetType = UNSET
    isolation: Isolation | UnsetType | None = UNSET


class Group(Scope):
    """Overrides for nodes by label."""

    weight: int | UnsetType = UNSET
    matchLabels: Labels | UnsetType = UNSET


class Host(Scope):
    """Overrides for one node by name."""

    group: str | UnsetType = UNSET


class Nodes(Strict):
    """Which nodes are CMK nodes."""

    selector: Labels | UnsetType = UNSET
    names: list[str] | UnsetType = UNSET
    all: bool | UnsetType = UNSET


class Compat(Strict):
    """Support of manifests and state of Intel CMK."""

    hostDirs: list[Directory] | UnsetType = UNSET
    adoptNamespaces: list[str] | UnsetType = UNSET


class Limits(Strict):
    """Limits of each pod at its node's agent."""

    connections: Annotated[int, Meta(ge=1, le=10000)] | None = None
    waiting: Annotated[int, Meta(ge=1, le=10000)] | None = None
    tasks: Annotated[int, Meta(ge=1, le=100000)] | None = None
    requestsPerSecond: Annotated[int, Meta(ge=1, le=10000)] | None = None


class Workloads(Strict):
    """Rules for pods that use cmk."""

    requireRequest: Literal["enforce", "warn"] | UnsetType = UNSET
    mountPath: Directory | Literal[""] | UnsetType = UNSET
    unsupportedRuntimeClasses: list[str] | UnsetType = UNSET
    limits: Limits | UnsetType | None = UNSET
    cpuRequests: Literal["off", "inject", "", False] | UnsetType = UNSET  # YAML reads a bare off as false


class Image(Strict):
    """Reference of the image."""

    registry: str | UnsetType = UNSET
    repository: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    tag: str | UnsetType = UNSET
    digest: Annotated[str, Meta(pattern="^(sha256:[0-9a-f]{64})?$")] | UnsetType = UNSET
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] | UnsetType = UNSET
    pullSecrets: list[Kubernetes] | UnsetType = UNSET


class Agent(Strict):
    """The DaemonSet."""

    resources: Kubernetes | UnsetType = UNSET
    priorityClassName: str | UnsetType = UNSET
    tolerations: list[Kubernetes] | UnsetType = UNSET
    logLevel: Level | UnsetType = UNSET
    logFormat: Literal["text", "json"] | UnsetType = UNSET
    healthPort: Annotated[int, Meta(ge=1, le=65535)] | UnsetType = UNSET
    extraEnv: list[Kubernetes] | UnsetType = UNSET
    ownNodePolicy: Literal["auto", "always", "never", ""] | UnsetType = UNSET
    podLabels: Labels | UnsetType = UNSET
    daemonSetName: str | UnsetType = UNSET
    podAnnotations: Labels | UnsetType = UNSET
    updateStrategy: Kubernetes | UnsetType | None = UNSET


class Certificates(Strict):
    """Source of the webhook's certificate."""

    mode: Literal["hooks", "certManager", "secret", ""] | UnsetType = UNSET
    lifetimeHours: Annotated[int, Meta(ge=1, le=87600)] | None = None
    secretName: str | UnsetType = UNSET
    issuerRef: Kubernetes | UnsetType = UNSET


class ClientCA(Strict):
    """A ConfigMap with the CA of the API server's client certificate."""

    configMap: str | UnsetType = UNSET
    key: str | UnsetType = UNSET


class LabelSelector(Strict):
    """Label selector of Kubernetes."""

    matchLabels: Labels | UnsetType = UNSET
    matchExpressions: list[Kubernetes] | UnsetType = UNSET


class Mutations(Strict):
    """Parts of pods and containers that the webhook merges into them."""

    perPod: Kubernetes | UnsetType = UNSET
    perContainer: Kubernetes | UnsetType = UNSET


class Pdb(Strict):
    """The PodDisruptionBudget."""

    enabled: bool | None = None


class Webhook(Strict):
    """The admission webhook."""

    enabled: bool | None = None
    replicas: Annotated[int, Meta(ge=1)] | None = None
    failurePolicy: Literal["Fail", "Ignore", ""] | UnsetType = UNSET
    timeoutSeconds: Annotated[int, Meta(ge=1, le=30)] | None = None
    mutations: Mutations | UnsetType = UNSET
    clientCA: ClientCA | UnsetType = UNSET
    namespaceSelector: LabelSelector | UnsetType = UNSET
    certificates: Certificates | UnsetType = UNSET
    port: Annotated[int, Meta(ge=1024, le=65535)] | None = None
    healthPort: Annotated[int, Meta(ge=1024, le=65535)] | None = None
    logLevel: Level | Literal[""] | UnsetType = UNSET
    logFormat: Literal["text", "json", ""] | UnsetType = UNSET
    priorityClassName: str | UnsetType = UNSET
    nodeSelector: Labels | UnsetType = UNSET
    tolerations: list[Kubernetes] | None = None
    resources: Kubernetes | None = None
    keeperResources: Kubernetes | None = None
    deploymentName: str | UnsetType = UNSET
    podLabels: Labels | UnsetType = UNSET
    podAnnotations: Labels | UnsetType = UNSET
    pdb: Pdb | UnsetType = UNSET


class NetworkPolicy(Strict, rename={"from_": "from"}):
    """NetworkPolicies of the webhook and the hooks."""

    enabled: bool | UnsetType = UNSET
    from_: list[Kubernetes] | UnsetType = UNSET
    apiServerPorts: list[int] | UnsetType = UNSET


class Plan(Strict):
    """Hook plan, before an upgrade."""

    enabled: bool | None = None


class Verify(Strict):
    """Hook verify, after an installation or upgrade."""

    enabled: bool | None = None
    timeoutSeconds: Annotated[int, Meta(ge=1, le=3600)] | None = None
    maxFailures: Annotated[int, Meta(ge=0)] | Annotated[str, Meta(pattern="^([0-9]+|[0-9]{1,2}%|100%)$")] | None = None


class Hooks(Strict):
    """Jobs of the chart's hooks."""

    backoffLimit: Annotated[int, Meta(ge=0, le=10)] | None = None
    activeDeadlineSeconds: Annotated[int, Meta(ge=1, le=3600)] | None = None
    priorityClassName: str | UnsetType = UNSET
    nodeSelector: Labels | UnsetType = UNSET
    tolerations: list[Kubernetes] | None = None


class Rollout(Strict):
    """Limit of nodes that change their pools at the same time."""

    maxUnavailable: Annotated[int, Meta(ge=0, le=100)] | None = None


class StarlingxConf(msgspec.Struct):
    """Values of StarlingX's charts. Other keys belong to helm-toolkit; the chart ignores them, and NOTES.txt names them."""

    cmk: dict[str, int | str] | None = None
    overrides: dict[str, Any] | None = None


class Crds(Strict, rename={"global_": "global"}):
    """The subchart with the custom resource definitions."""

    enabled: bool | UnsetType = UNSET
    keep: bool | UnsetType = UNSET
    global_: Kubernetes | UnsetType = UNSET  # Helm adds it


class Values(Scope, rename={"global_": "global"}):
    """values.yaml."""

    nodes: Nodes | UnsetType = UNSET
    groups: dict[str, Group] | UnsetType = UNSET
    hosts: dict[str, Host | None] | UnsetType = UNSET
    conf: StarlingxConf | UnsetType = UNSET
    installDir: Directory | UnsetType = UNSET
    stateDir: Directory | UnsetType = UNSET
    kubeletDir: Directory | UnsetType = UNSET
    compat: Compat | UnsetType = UNSET
    workloads: Workloads | UnsetType = UNSET
    image: Image | UnsetType = UNSET
    agent: Agent | UnsetType = UNSET
    webhook: Webhook | UnsetType = UNSET
    networkPolicy: NetworkPolicy | UnsetType = UNSET
    plan: Plan | UnsetType = UNSET
    verify: Verify | UnsetType = UNSET
    hooks: Hooks | UnsetType = UNSET
    rollout: Rollout | UnsetType = UNSET
    crds: Crds | UnsetType = UNSET
    nameOverride: str | UnsetType = UNSET
    fullnameOverride: str | UnsetType = UNSET
    global_: Kubernetes | UnsetType = UNSET
    # Keys of helm-toolkit: the chart ignores them, and NOTES.txt names them.
    bootstrap: Any = None
    dependencies: Any = None
    endpoints: Any = None
    images: Any = None
    labels: Any = None
    manifests: Any = None
    network: Any = None
    pod: Any = None
    release_group: Any = None
    secrets: Any = None


if __name__ == "__main__":
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Values)}
    print(json.dumps(schema, indent=2))
