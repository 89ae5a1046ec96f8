import pytest

from cmk.isolation.conflicts import conflict_of, manager_of


@pytest.mark.parametrize(
    ("image", "phase", "manager"),
    [
        (
            "ghcr.io/containers/nri-plugins/nri-resource-policy-balloons:v0.14.0",
            "Running",
            "nri-plugins' balloons policy (pod ns/p)",
        ),
        ("registry:5000/dra-driver-cpu@sha256:abc", "Pending", "dra-driver-cpu (pod ns/p)"),
        ("cpusetter", "Running", "CPU-Pooler (pod ns/p)"),
        ("cpusetter", "Succeeded", ""),
        ("nginx:cpusetter", "Running", ""),
    ],
)
def test_other_managers_are_known_by_their_images(image: str, phase: str, manager: str) -> None:
    pod = {"metadata": {"namespace": "ns", "name": "p"}, "spec": {"containers": [{"image": image}]}, "status": {"phase": phase}}
    assert manager_of(pod) == manager


def test_a_conflict_names_them_and_the_remedy() -> None:
    assert conflict_of(["", ""]) == ""
    text = conflict_of(["a (pod x/y)", "", "a (pod x/y)"])
    assert text.startswith("a (pod x/y) manages")
    assert "isolation.pods=false" in text
