"""The webhook's promises: what pods get, who never notices, and what happens when somebody takes things away."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cmk.certificates import pki
from cmk.certificates.pki import Issued
from tests.cluster.cluster import NAMESPACE, PODS, REPO, TINY, Cluster, Json, Pod, wait_for
from tests.cluster.nodes import leaving_webhook_pods, no_webhook, webhook_pods

CREATOR = Path(__file__).parent / "creator.py"
NAME = "cmk-webhook"
SECRET = "cmk-webhook-cert"  # noqa: S105  # its name
CORES = "cmk.intel.com/exclusive-cores"
# The operator manual's way to validate the webhook, but for names of node and image and a shell that the image has.
MANUAL = f"""
apiVersion: v1
kind: Pod
metadata:
  labels:
    app: cmk-isolate-pod
  name: cmk-isolate-pod
spec:
  nodeName: node1
  containers:
  - args:
    - "/opt/bin/cmk isolate --conf-dir=/etc/cmk --pool=exclusive sleep -- 10000"
    command:
    - "/bin/sh"
    - "-c"
    env:
    image: {TINY}
    imagePullPolicy: "Never"
    name: cmk-isolate-infra
    resources:
      requests:
        cmk.intel.com/exclusive-cores: 1
  restartPolicy: Never
"""


def pod(name: str, resources: Json | None = None, annotations: dict[str, str] | None = None, **spec: Any) -> Json:  # noqa: ANN401
    """A pod that nobody schedules."""
    app = {"name": "app", "image": TINY, "resources": resources or {}}
    meta = {"name": name, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"schedulerName": "nobody", "containers": [app], **spec}}


def try_out(cluster: Cluster, manifest: Json) -> tuple[Json | None, str]:
    """What the API server makes of a pod, without keeping it; and what it said.

    Webhook pods that an upgrade has replaced answer on for some seconds, by the settings of before: waits for their end.
    """
    wait_for("replaced webhook pods are gone", lambda: not leaving_webhook_pods(cluster))
    done = cluster.script(
        "kubectl", "create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest), check=False
    )
    return (json.loads(done.stdout) if done.returncode == 0 else None), done.stderr


def configuration(cluster: Cluster) -> Json | None:
    return cluster.find("mutatingwebhookconfiguration", NAME)


def bundle(cluster: Cluster) -> bytes:
    found = configuration(cluster)
    return base64.b64decode(found["webhooks"][0]["clientConfig"].get("caBundle", "")) if found else b""


def secret(cluster: Cluster, name: str = SECRET) -> dict[str, bytes]:
    found = cluster.find("secret", "-n", NAMESPACE, name)
    return {key: base64.b64decode(value) for key, value in found["data"].items()} if found else {}


def metrics(cluster: Cluster, name: str) -> str:
    return cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}:8087/proxy/metrics")


def reviews(cluster: Cluster) -> float:
    """Reviews that all webhook pods have answered."""
    texts = [metrics(cluster, name) for name in webhook_pods(cluster)]
    return sum(float(value) for text in texts for value in re.findall(r"^cmk_webhook_reviews_total\{.*\} (.*)$", text, re.M))


def upgrade(cluster: Cluster, *settings: str, helm: str = "helm") -> None:
    """To these settings over the tests' values, and wait."""
    cluster.upgrade("--wait", *(word for item in settings for word in ("--set", item)), program=helm)


@contextmanager
def load(cluster: Cluster, rate: int) -> Iterator[Callable[[], Json]]:
    """Pods being created, for three minutes at most; the value, once called, ends it and tells what became of them."""
    cluster.kubectl("create", "namespace", "load")
    line = [REPO / "scripts/cluster", "run", REPO / "scripts/python", CREATOR, str(rate), "180", "load"]
    with subprocess.Popen(line, env=cluster.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as creator:
        try:
            assert creator.stdout
            assert creator.stdout.readline() == "begun\n"

            def finish() -> Json:
                result: Json = json.loads(creator.communicate()[0])
                print(json.dumps({**result, "failed": len(result["failed"])}))
                return result

            yield finish
        finally:
            creator.kill()
            cluster.kubectl("delete", "namespace", "load", "--wait=false")
            wait_for("its namespace is gone", lambda: cluster.find("namespace", "load") is None)


@pytest.fixture(autouse=True)
def _served(cluster: Cluster) -> None:
    wait_for("two webhook pods are ready", lambda: len(webhook_pods(cluster)) == 2)
    wait_for("cmk pods are served", lambda: try_out(cluster, pod("probe", {"limits": {CORES: "1"}}))[0])


class TestWhatPodsGet:
    def test_the_manuals_simplified_pod_runs_isolated(self, cluster: Cluster) -> None:
        cluster.kubectl("create", "-f", "-", stdin=MANUAL)
        isolated = Pod(cluster, "cmk-isolate-pod")
        try:
            isolated.wait_running()
            wait_for("it is a task of the pool", lambda: cluster.tasks("exclusive"))
            (pid,) = cluster.tasks("exclusive")
            assert pid in isolated.processes()
            (core,) = cluster.describe()["exclusive"]["cpuLists"]
            assert cluster.on_node(1, f"grep Cpus_allowed_list /proc/{pid}/status").split()[-1] == core
            spec = isolated.object["spec"]
            assert isolated.object["metadata"]["annotations"] == {"cmk.intel.com/resources-injected": "true"}
            assert spec["serviceAccountName"] == "default"
            assert [volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume] == ["/opt/cmk"]
            # Its environment says so as well, and nothing of the node is writable for it.
            assert "CMK_NUM_CORES=1" in isolated.exec("sh", "-c", "tr '\\0' '\\n' </proc/1/environ").stdout
            assert isolated.exec("touch", "/opt/bin/x").returncode != 0
        finally:
            isolated.delete()

    def test_a_pod_of_the_shared_pools_asks_by_annotation(self, cluster: Cluster) -> None:
        made, _ = try_out(cluster, pod("p", annotations={"cmk.intel.com/mutate": "true"}))
        assert made
        assert made["spec"]["containers"][0]["volumeMounts"][-1]["mountPath"] == "/opt/bin"

    def test_opaque_integer_resources_become_todays(self, cluster: Cluster) -> None:
        made, _ = try_out(cluster, pod("p", {"requests": {"pod.alpha.kubernetes.io/opaque-int-resource-kcm": "1"}}))
        assert made
        assert made["spec"]["containers"][0]["resources"] == {"requests": {CORES: "1"}, "limits": {CORES: "1"}}

    def test_a_hundred_containers(self, cluster: Cluster) -> None:
        apps = [{"name": f"c{number}", "image": TINY, "resources": {"limits": {CORES: "1"}}} for number in range(100)]
        made, said = try_out(cluster, pod("p", containers=apps))
        assert made, said
        assert all(item["env"] == [{"name": "CMK_NUM_CORES", "value": "1"}] for item in made["spec"]["containers"])

    def test_an_unknown_pool_is_refused_with_those_there_are(self, cluster: Cluster) -> None:
        made, said = try_out(cluster, pod("p", {"limits": {"cmk.intel.com/exclusiv-cores": "1"}}))
        assert not made
        assert "there is no exclusive pool exclusiv; there are: exclusive" in said

    def test_parts_of_a_core_are_refused(self, cluster: Cluster) -> None:
        made, said = try_out(cluster, pod("p", {"limits": {CORES: "1500m"}}))
        assert not made
        assert f"container app asks for {CORES}: 1500m is not a whole number" in said

    def test_cpu_beside_cores_is_warned_of(self, cluster: Cluster) -> None:
        made, said = try_out(cluster, pod("p", {"limits": {CORES: "1", "cpu": "500m"}}))
        assert made
        assert "Warning: container app has limits.cpu 500m: the kernel throttles it on its own cores" in said


class TestWhoNeverNotices:
    @pytest.mark.parametrize(
        "manifest",
        [
            pod("plain"),
            pod("cpu", {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}),
            pod("other", {"limits": {"cmk.intel.com/other": "1"}}),
            pod("not", annotations={"cmk.intel.com/mutate": "false", "a/b": "c"}),
            pod("init", initContainers=[{"name": "i", "image": TINY}]),
            pod("many", containers=[{"name": f"c{number}", "image": TINY} for number in range(100)]),
            pod("account", serviceAccountName="default", automountServiceAccountToken=True),
        ],
        ids=lambda manifest: manifest["metadata"]["name"],
    )
    def test_other_pods_are_not_even_sent(self, cluster: Cluster, manifest: Json) -> None:
        before = reviews(cluster)
        made, said = try_out(cluster, manifest)
        assert made, said
        assert reviews(cluster) == before

    @pytest.mark.parametrize("namespace", ["kube-system", NAMESPACE])
    def test_the_systems_and_our_own_namespace_are_not_either(self, cluster: Cluster, namespace: str) -> None:
        before = reviews(cluster)
        manifest = pod("p", {"limits": {CORES: "1"}})
        manifest["metadata"]["namespace"] = namespace
        made, _ = try_out(cluster, manifest)
        assert made
        assert "cmk.intel.com/resources-injected" not in made["metadata"].get("annotations", {})
        assert reviews(cluster) == before

    def test_with_no_webhook_at_all_only_pods_that_ask_are_refused(self, cluster: Cluster) -> None:
        with no_webhook(cluster):
            wait_for("refused", lambda: not try_out(cluster, pod("p", {"limits": {CORES: "1"}}))[0])
            _, said = try_out(cluster, pod("p", {"limits": {CORES: "1"}}))
            assert 'failed calling webhook "pods.cmk.intel.com"' in said
            for number in range(20):
                assert cluster.api.request("POST", f"{PODS}?dryRun=All", pod(f"plain{number}"))


class TestNothingIsLost:
    def test_pods_deleted_one_by_one_under_load_fail_no_creation(self, cluster: Cluster) -> None:
        with load(cluster, 50) as finish:
            for _ in range(2):
                for name in webhook_pods(cluster):
                    cluster.kubectl("delete", "pod", "-n", NAMESPACE, name, "--wait=false")
                    wait_for(
                        "two are ready again", lambda gone=name: gone not in (ready := webhook_pods(cluster)) and len(ready) == 2
                    )
            done = finish()
        assert done["failed"] == []
        assert done["created"] == done["asked"] > 100

    def test_certificate_and_ca_change_under_load(self, cluster: Cluster) -> None:
        old, before = secret(cluster), bundle(cluster)
        with load(cluster, 20) as finish:
            place = ("--namespace=cmk", f"--secret={SECRET}", f"--service={NAME}", f"--configuration={NAME}", f"--owner={NAME}")
            command = ("/usr/bin/cmk", "certs", *place, "create", "--renew", "--lifetime-hours=48")
            cluster.kubectl("exec", "-n", NAMESPACE, webhook_pods(cluster)[0], "-c", "keeper", "--", *command)
            new = secret(cluster)
            end = pki.ends(new["tls.crt"]).timestamp()

            def shown(name: str) -> bool:
                found = re.search(r"^cmk_webhook_certificate_not_after\S* (\S+)$", metrics(cluster, name), re.M)
                return bool(found) and float(found[1]) == end

            wait_for("both show the new one", lambda: all(shown(name) for name in webhook_pods(cluster)))
            done = finish()
        assert done["failed"] == []
        assert done["created"] == done["asked"] > 20
        assert new["tls.crt"] != old["tls.crt"]
        assert pki.is_trusted(before, bundle(cluster))
        assert pki.is_trusted(new["ca.crt"], bundle(cluster))

    @pytest.mark.parametrize("helm", ["helm", "helm3"])
    def test_upgrades_and_rollbacks_keep_the_bundle(self, cluster: Cluster, helm: str) -> None:
        before = bundle(cluster)
        assert before
        for number in range(2):
            upgrade(cluster, f"webhook.podLabels.upgrade=n{number}", helm=helm)
            assert bundle(cluster) == before
        cluster.script("run", helm, "rollback", "cmk", "-n", NAMESPACE, "--wait")
        assert bundle(cluster) == before
        assert cluster.get("jobs", "-n", NAMESPACE)["items"] == []

    def test_what_is_taken_away_is_back_within_seconds(self, cluster: Cluster) -> None:
        before, pair = bundle(cluster), secret(cluster)
        deleted = ("delete", "mutatingwebhookconfiguration", NAME)
        emptied = ("patch", *deleted[1:], "--type=json", "-p", '[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]')
        without = ("delete", "secret", "-n", NAMESPACE, SECRET)
        for damage in ((deleted,), (emptied,), (without,), (deleted, without)):
            for command in damage:
                cluster.kubectl(*command)
            start = time.monotonic()
            wait_for("all is back", lambda: bundle(cluster) == before and secret(cluster) == pair, 15)
            print(f"{[command[0:2] for command in damage]}: back after {time.monotonic() - start:.1f} s")
            assert try_out(cluster, pod("p", {"limits": {CORES: "1"}}))[0]

    def test_an_upgrade_heals_what_no_keeper_is_there_to_heal(self, cluster: Cluster) -> None:
        with no_webhook(cluster):
            cluster.kubectl("delete", "secret", "-n", NAMESPACE, SECRET)
            cluster.kubectl("delete", "mutatingwebhookconfiguration", NAME)
            cluster.upgrade()
            assert pki.is_trusted(secret(cluster)["ca.crt"], bundle(cluster))

    def test_helm_finds_what_was_made_anew_to_be_its_own(self, cluster: Cluster) -> None:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", NAME)
        wait_for("it is back", lambda: bundle(cluster))
        upgrade(cluster, "webhook.timeoutSeconds=7")
        found = configuration(cluster)
        assert found
        assert found["webhooks"][0]["timeoutSeconds"] == 7
        assert bundle(cluster)
        upgrade(cluster)

    def test_a_certificate_that_is_overwritten_is_replaced(self, cluster: Cluster) -> None:
        cluster.kubectl("patch", "secret", "-n", NAMESPACE, SECRET, "-p", '{"data": {"tls.key": "AAAA"}}')
        wait_for("it is good again", lambda: len(secret(cluster).get("tls.key", b"")) > 100, 15)
        assert pki.is_trusted(secret(cluster)["ca.crt"], bundle(cluster))


class TestHowItCanBeSet:
    def test_mutations_and_cpu_requests(self, cluster: Cluster) -> None:
        upgrade(
            cluster,
            "workloads.cpuRequests=inject",
            "workloads.unsupportedRuntimeClasses={kata}",
            "webhook.mutations.perPod.metadata.labels.team=x",
            "webhook.mutations.perContainer.env[0].name=A,webhook.mutations.perContainer.env[0].value=b",
        )
        made, said = try_out(cluster, pod("p", {"limits": {CORES: "2"}}))
        assert made, said
        (app,) = made["spec"]["containers"]
        assert app["resources"]["requests"] == {CORES: "2", "cpu": "2"}
        assert {"name": "A", "value": "b"} in app["env"]
        assert made["metadata"]["labels"] == {"team": "x"}
        upgrade(cluster)

    def test_a_secret_of_the_operators(self, cluster: Cluster) -> None:
        mine = pki.issue([f"{NAME}.{NAMESPACE}.svc"], datetime.now(UTC), timedelta(days=1))
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(tls_secret("mine", mine)))
        upgrade(cluster, "webhook.certificates.mode=secret,webhook.certificates.secretName=mine")
        assert pki.is_trusted(mine.ca, bundle(cluster))
        assert try_out(cluster, pod("p", {"limits": {CORES: "1"}}))[0]
        assert secret(cluster, "mine")["tls.crt"] == mine.cert
        upgrade(cluster)
        cluster.kubectl("delete", "secret", "-n", NAMESPACE, "mine")
        assert try_out(cluster, pod("p", {"limits": {CORES: "1"}}))[0]

    def test_cert_manager(self, cluster: Cluster) -> None:
        """The test takes cert-manager's part: its definitions, its Secret, its caBundle."""
        cluster.kubectl("apply", "-f", str(Path(__file__).parent / "cert-manager-crds.yaml"))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "issuers.cert-manager.io", "certificates.cert-manager.io")
        theirs = pki.issue([f"{NAME}.{NAMESPACE}.svc"], datetime.now(UTC), timedelta(days=1))
        mode = "webhook.certificates.mode=certManager,webhook.certificates.secretName=theirs"
        try:
            cluster.kubectl("apply", "-f", "-", stdin=json.dumps(tls_secret("theirs", theirs)))
            upgrade(cluster, mode)
            asked = {item["metadata"]["name"]: item["spec"] for item in cluster.get("certificates", "-n", NAMESPACE)["items"]}
            assert asked[NAME]["secretName"] == "theirs"
            assert f"{NAME}.{NAMESPACE}.svc" in asked[NAME]["dnsNames"]
            found = configuration(cluster)
            assert found
            assert found["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == f"{NAMESPACE}/{NAME}"
            value = base64.b64encode(theirs.ca).decode()
            patch = json.dumps([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": value}])
            cluster.kubectl("patch", "mutatingwebhookconfiguration", NAME, "--type=json", "-p", patch)
            wait_for("pods are served", lambda: try_out(cluster, pod("p", {"limits": {CORES: "1"}}))[0])
            time.sleep(4)  # a keeper that meddled would have by now
            assert bundle(cluster) == theirs.ca
        finally:
            upgrade(cluster)
            cluster.kubectl("delete", "secret", "-n", NAMESPACE, "theirs")
            cluster.kubectl("delete", "-f", str(Path(__file__).parent / "cert-manager-crds.yaml"))

    def test_mutual_tls_with_the_api_server(self, cluster: Cluster) -> None:
        upgrade(cluster, "webhook.clientCA.configMap=kube-root-ca.crt")
        made, said = try_out(cluster, pod("p", {"limits": {CORES: "1"}}))
        assert made, said
        address = cluster.get("endpoints", "-n", NAMESPACE, NAME)["subsets"][0]["addresses"][0]["ip"]
        stranger = cluster.script(
            "run", "curl", "-sk", "--max-time", "5", f"https://{address}:8443/mutate", "-d", "{}", check=False
        )
        assert stranger.returncode != 0
        upgrade(cluster)

    def test_it_can_be_left_out_and_come_back(self, cluster: Cluster) -> None:
        upgrade(cluster, "webhook.enabled=false")
        assert configuration(cluster) is None
        wait_for("nothing of it is left", lambda: not secret(cluster) and not cluster.get("leases", "-n", NAMESPACE)["items"])
        made, _ = try_out(cluster, pod("p", {"limits": {CORES: "1"}}))
        assert made
        assert not [item for item in made["spec"]["volumes"] if "hostPath" in item]
        upgrade(cluster)
        assert try_out(cluster, pod("p", {"limits": {CORES: "1"}}))[0]


def tls_secret(name: str, issued: Issued) -> Json:
    """A Secret of somebody else's."""
    parts = {"tls.crt": issued.cert, "tls.key": issued.key, "ca.crt": issued.ca}
    data = {key: base64.b64encode(part).decode() for key, part in parts.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}


def test_the_keeper_may_do_nothing_else(cluster: Cluster) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:{NAME}"

    def may(*what: str) -> bool:
        return cluster.script("kubectl", "auth", "can-i", *what, "--as", account, check=False).stdout.strip() == "yes"

    for verb in ("get", "create", "patch", "update", "delete", "list"):
        assert not may(verb, "mutatingwebhookconfiguration/another")
        assert not may(verb, "secret/another", "-n", NAMESPACE)
        assert not may(verb, "secrets", "-n", NAMESPACE)
        assert not may(verb, "pods", "-n", NAMESPACE)
    assert may("patch", f"mutatingwebhookconfiguration/{NAME}")
    assert not may("get", "secrets", "-n", "default")


def test_only_the_keepers_container_has_a_token(cluster: Cluster) -> None:
    name = webhook_pods(cluster)[0]
    look = ("ls", "/var/run/secrets/kubernetes.io/serviceaccount/token")
    for container, there in (("cmk-webhook", False), ("keeper", True)):
        done = cluster.script("kubectl", "exec", "-n", NAMESPACE, name, "-c", container, "--", *look, check=False)
        assert (done.returncode == 0) is there
