import json

import pytest

from cmk.model import config
from cmk.model.isolation_config import Isolation


def section(tag: str) -> dict[str, object]:
    return {"pools": {"infra": {"cores": "rest"}}, "hash": tag}


CLUSTER = config.parse_cluster(
    json.dumps(
        {
            "selection": {"selector": {"cmk-node": "enabled"}, "names": ["w9"]},
            "default": section("default"),
            "groups": {
                "big": {"weight": 10, "matchLabels": {"size": "big"}, "section": section("big")},
                "any": {"weight": 1, "matchLabels": {"size": "big"}, "section": section("any")},
                "lone": {"section": section("lone")},
            },
        }
    )
)
HOSTS = config.parse_hosts(
    json.dumps(
        {
            "w0": {"sections": {"": section("w0"), "big": section("w0+big"), "any": section("w0+any")}},
            "w1": {"group": "lone", "sections": {"lone": section("w1+lone")}},
        }
    )
)


@pytest.mark.parametrize(
    ("node", "labels", "tag", "scope"),
    [
        ("w5", {}, "default", "default"),
        ("w5", {"size": "big"}, "big", "groups.big"),
        ("w0", {}, "w0", "hosts.w0"),
        ("w0", {"size": "big"}, "w0+big", "hosts.w0"),
        ("w1", {"size": "big"}, "w1+lone", "hosts.w1"),
    ],
)
def test_host_beats_group_beats_default(node: str, labels: dict[str, str], tag: str, scope: str) -> None:
    chosen = config.choose(CLUSTER, HOSTS, node, labels)
    assert (chosen.section.hash, chosen.scope) == (tag, scope)


def test_a_host_without_section_for_its_group_is_refused() -> None:
    hosts = config.parse_hosts(json.dumps({"w0": {"group": "gone", "sections": {"": section("x")}}}))
    with pytest.raises(config.ConfigError, match=r"hosts\.w0 has no section for group 'gone'"):
        config.choose(CLUSTER, hosts, "w0", {})


@pytest.mark.parametrize(
    ("node", "labels", "expected"),
    [("w1", {"cmk-node": "enabled"}, True), ("w1", {"cmk-node": "no"}, False), ("w1", {}, False), ("w9", {}, True)],
)
def test_selection_is_the_union_of_labels_and_names(node: str, labels: dict[str, str], expected: bool) -> None:
    assert CLUSTER.selection.matches(node, labels) is expected


def test_an_empty_selection_selects_nothing() -> None:
    assert not config.Selection().matches("w1", {"a": "b"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "config.json: "),
        ('{"default": {}}', "config.json: "),
        ('{"selection": {}, "default": {"hash": "x", "pools": {"a": {"cores": -2}}}}', r"default\.pools"),
        ('{"selection": {}, "default": {"hash": "x", "pools": {"a": {"cores": "3"}}}}', r"default\.pools"),
        ('{"selection": {}, "default": {"hash": "x", "pools": {"a": {"cores": "5-3"}}}}', "runs backwards"),
        ('{"selection": {}, "default": {"hash": "x", "pools": {"a": {}}}}', "either cores or cpus"),
        ('{"selection": {}, "default": {"hash": "x", "pools": {"a": {"cores": 1, "cpus": "1"}}}}', "either cores or cpus"),
        ('{"selection": {}, "default": {"hash": "x", "pools": {}, "reserved": "1-"}}', r"reserved\.cpus: "),
        ('{"selection": {}, "default": {"hash": "x", "pools": {"a": {"cores": 1, "colour": 1}}}}', "colour"),
    ],
)
def test_a_bad_configuration_names_the_place(text: str, complaint: str) -> None:
    with pytest.raises(config.ConfigError, match=complaint):
        config.parse_cluster(text)


def test_shards_are_those_of_helm() -> None:
    # adler32sum "worker-0" | mod 16, as Helm 4.3.1 prints it
    assert config.shard_of("worker-0") == 251659000 % 16


def test_a_group_may_take_one_of_several_values_of_a_label() -> None:
    group = config.Group(config.Section({}, "x"), {"kind": ("dpdk", "sriov"), "size": "big"})
    assert group.matches({"kind": "sriov", "size": "big"})
    assert not group.matches({"kind": "sriov"})
    assert not group.matches({"kind": "other", "size": "big"})


def test_a_host_alone_knows_no_groups() -> None:
    hosts = {"w0": config.Host({"": config.Section({}, "alone")}, alone=True, scope="conf.overrides.x.hosts[0]")}
    chosen = config.choose(CLUSTER, hosts, "w0", {"size": "big"})
    assert (chosen.section.hash, chosen.scope) == ("alone", "conf.overrides.x.hosts[0]")


def test_a_host_goes_by_its_name_before_its_hostname_label() -> None:
    hosts = {name: config.Host({"": config.Section({}, name)}) for name in ("n1", "h1")}
    labels = {"kubernetes.io/hostname": "h1"}
    assert config.choose(CLUSTER, hosts, "n1", labels).section.hash == "n1"
    assert config.choose(CLUSTER, {"h1": hosts["h1"]}, "n1", labels).scope == "hosts.h1"


def test_a_group_of_starlingx_is_named_as_it_was_written() -> None:
    name = "conf.overrides.cpu-manager-k8s_cmk.labels[0]"
    cluster = config.ClusterConfig(
        config.Selection(), config.Section({}, "d"), {name: config.Group(config.Section({}, "g"), {"a": "b"})}
    )
    assert config.choose(cluster, {}, "n", {"a": "b"}).scope == name


def test_every_value_says_where_it_came_from() -> None:
    pools = {"shared": config.PoolConfig(2), "gold": config.PoolConfig(cpus="2-3", exclusive=True, prefer="sst-bf")}
    origins = {"shared.cores": "hosts.w0", "taint": "groups.g", "isolation.irqs": "values"}
    section = config.Section(pools, "x", taint=False, reserved="auto", origins=origins, isolation=Isolation(irqs="on"))
    assert section.values() == [
        "gold.cpus=2-3 from built-in",
        "gold.mode=packed from built-in",
        "gold.prefer=sst-bf from built-in",
        "isolation.host=off from built-in",
        "isolation.idle=reserved from built-in",
        "isolation.irqs=on from values",
        "isolation.ownPod=true from built-in",
        "isolation.partition=off from built-in",
        "isolation.pods=true from built-in",
        "paused=false from built-in",
        "reserved.cpus=auto from built-in",
        "shared.cores=2 from hosts.w0",
        "shared.mode=packed from built-in",
        "taint=false from groups.g",
    ]
