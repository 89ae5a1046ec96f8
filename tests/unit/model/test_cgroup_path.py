import pytest

from cmk.model.cgroup_path import MixedCgroupsError, PodContainer, container_of, is_container, is_nested, parse_cgroup, top_down

UID = "0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f"
OTHER = "ffffffff-6d3f-4f0c-9d5e-0a1b2c3d4e5f"
CID = "ab" * 32
HASH = "0123456789abcdef0123456789abcdef"
U = UID.replace("-", "_")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"0::/kubepods/burstable/pod{UID}/{CID}", PodContainer(UID, CID)),
        (f"4:cpuset:/kubepods/pod{UID}/{CID}", PodContainer(UID, CID)),
        (
            f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{U}.slice/cri-containerd-{CID}.scope",
            PodContainer(UID, CID),
        ),
        (f"0::/kubepods.slice/kubepods-pod{U}.slice/crio-{CID}.scope", PodContainer(UID, CID)),
        (f"0::/kubepods.slice/kubepods-pod{U}.slice/crio-{CID}.scope/container", PodContainer(UID, CID)),
        (f"0::/../../kubepods-burstable-pod{U}.slice/cri-containerd-{CID}.scope", PodContainer(UID, CID)),
        (f"0::/../../pod{UID}/{CID}", PodContainer(UID, CID)),
        (f"0::/kubelet/kubepods/burstable/pod{HASH}/{CID}", PodContainer(HASH, CID)),
        (f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{U}.slice/docker-{CID}.scope", PodContainer(UID, CID)),
        (f"0::/kubepods/pod{UID}", PodContainer(UID, "")),
        ("0::/system.slice/sshd.service", PodContainer()),
        ("0::/", PodContainer()),
        ("0::/user.slice/podman-1000.slice", PodContainer()),
        ("0::/kubepods/podinfo", PodContainer()),
        # what a workload appends below its own container does not move it
        (f"0::/kubepods/pod{UID}/{CID}/pod{OTHER}/{CID}", PodContainer(UID, CID)),
        (f"0::/kubepods/pod{UID}/{CID}/kubepods-pod{OTHER.replace('-', '_')}.slice", PodContainer(UID, CID)),
        (f"4:cpuset:/kubepods/pod{UID}/{CID}:/pod{OTHER}", PodContainer(UID, "")),
    ],
)
def test_finds_pod_and_container(line: str, expected: PodContainer) -> None:
    assert parse_cgroup(line) == expected


def test_reads_all_hierarchies_of_cgroup_v1() -> None:
    text = f"12:cpuset:/kubepods/pod{UID}/{CID}\n3:name=systemd:/kubepods/pod{UID}\n0::/\n"
    assert parse_cgroup(text) == PodContainer(UID, CID)


def test_two_pods_at_once_are_refused() -> None:
    with pytest.raises(MixedCgroupsError, match=f"{UID}, {OTHER}"):
        parse_cgroup(f"2:cpu:/kubepods/pod{UID}/{CID}\n1:pids:/kubepods/pod{OTHER}/{CID}\n")


POD = f"burstable/pod{UID}"


@pytest.mark.parametrize(
    ("path", "container", "below_pod", "nested"),
    [
        ("", PodContainer(), False, False),
        ("burstable", PodContainer(), False, False),
        (POD, PodContainer(UID), False, False),
        (f"{POD}/{CID}", PodContainer(UID, CID), True, False),
        (f"{POD}/{CID}/own", PodContainer(UID, CID), True, True),
        (f"{POD}/crio-conmon-{CID}.scope", PodContainer(UID), True, False),
        (f"{POD}/pause", PodContainer(UID), True, False),
    ],
)
def test_groups_below_kubepods(path: str, container: PodContainer, below_pod: bool, nested: bool) -> None:
    assert (container_of(path), is_container(path), is_nested(path)) == (container, below_pod, nested)


def test_parents_come_before_their_children() -> None:
    assert top_down(["b/c", "a/b/c", "b", "", "a/b", "a"]) == ["", "a", "b", "a/b", "b/c", "a/b/c"]
