"""Machine configs by the real talosctl: every combination, goldens, and what each wall says."""

from __future__ import annotations

import base64
import itertools
from datetime import timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from talos_samples import (
    BOARD,
    CONTROL_PLANES,
    GOLDENS,
    PI_SCHEMATIC,
    SCHEMATIC,
    VIRTUAL_IP,
    assert_golden,
    cluster,
    documents,
    machine,
    ports_open,
    secret_texts,
    shown,
    worker,
)

from layer1.errors import RenderError
from layer1.talos import machine_config, seed
from layer1.talos.machine_config import Encryption, Platform, Role

COMBINATIONS = [
    pytest.param(*values, id="-".join(map(str, values)))
    for values in itertools.product(Role, Encryption, (False, True), (None, VIRTUAL_IP), (1, 3))
    if not (values[1] == Encryption.TPM and not values[2])
]
WORKERS_SECRETS = {
    "cluster.id",
    "cluster.secret",
    "secrets.bootstraptoken",
    "trustdinfo.token",
    "certs.os.crt",
    "certs.k8s.crt",
}


@pytest.mark.parametrize(("role", "encryption", "secure_boot", "virtual_ip", "count"), COMBINATIONS)
def test_every_combination_is_made_and_is_valid(  # noqa: PLR0917
    secrets, role, encryption, secure_boot, virtual_ip, count
):
    spec = cluster(
        endpoint=virtual_ip or CONTROL_PLANES[0],
        control_planes=CONTROL_PLANES[:count],
        workers=("10.11.0.40",),
        virtual_ip=virtual_ip,
    )
    make = machine if role == Role.CONTROLPLANE else worker
    node = make(encryption=encryption, secure_boot=secure_boot)
    config = machine_config.generate_config(secrets, spec, node)
    machine_config.validate(config)

    found = documents(config)
    main = found["machine"]
    assert main["machine"]["type"] == role
    assert main["machine"]["install"]["disk"] == "/dev/vda"
    boot = "-secureboot" if secure_boot else ""
    assert main["machine"]["install"]["image"] == (
        f"factory.talos.dev/nocloud-installer{boot}/{SCHEMATIC}:v1.13.4"
    )
    assert main["cluster"]["controlPlane"]["endpoint"] == f"https://{virtual_ip or CONTROL_PLANES[0]}:6443"
    assert found["HostnameConfig"] == {
        "apiVersion": "v1alpha1",
        "kind": "HostnameConfig",
        "auto": "off",
        "hostname": node.hostname,
    }
    assert found["LinkConfig/eth0"]["addresses"] == [{"address": node.address}]
    assert found["LinkConfig/eth0"]["routes"] == [{"gateway": "10.11.0.1"}]
    assert found["NetworkDefaultActionConfig"]["ingress"] == "block"
    assert main["cluster"]["discovery"]["enabled"] is False
    assert _keys_of(found) == _expected_keys(encryption)

    control_plane = role == Role.CONTROLPLANE
    assert (f"Layer2VIPConfig/{VIRTUAL_IP}" in found) == (control_plane and virtual_ip is not None)
    # A worker holds no authority's key, nothing of etcd, and not what encrypts etcd.
    held = {name for value, name in secret_texts(secrets).items() if value in config}
    every = set(secret_texts(secrets).values())
    assert held == (every if control_plane else WORKERS_SECRETS)


BOARDS = [
    pytest.param(*values, id="-".join(map(str, values)))
    for values in itertools.product(
        Role, (Encryption.NONE, Encryption.NODE_ID), (None, VIRTUAL_IP), (1, 3), ("mmcblk0", "sda", "nvme0n1")
    )
]


@pytest.mark.parametrize(("role", "encryption", "virtual_ip", "count", "disk"), BOARDS)
def test_every_board_is_made_and_is_valid(secrets, role, encryption, virtual_ip, count, disk):  # noqa: PLR0917
    spec = cluster(
        endpoint=virtual_ip or CONTROL_PLANES[0],
        control_planes=CONTROL_PLANES[:count],
        workers=("10.11.0.40",),
        virtual_ip=virtual_ip,
    )
    make = machine if role == Role.CONTROLPLANE else worker
    node = make(**BOARD | {"encryption": encryption, "install_disk": f"/dev/{disk}"})
    config = machine_config.generate_config(secrets, spec, node)
    machine_config.validate(config, Platform.METAL)

    found = documents(config)
    install = found["machine"]["machine"]["install"]
    assert install["disk"] == f"/dev/{disk}"
    assert install["image"] == f"factory.talos.dev/metal-installer/{PI_SCHEMATIC}:v1.13.4"
    # No name of a card that hangs on the board: the alias stands wherever a card is named.
    assert found["LinkAliasConfig/uplink"]["selector"] == {"match": 'link.driver in ["bcmgenet", "macb"]'}
    assert found["LinkConfig/uplink"]["addresses"] == [{"address": node.address}]
    assert [key for key in found if key.startswith("LinkConfig/")] == ["LinkConfig/uplink"]
    if role == Role.CONTROLPLANE and virtual_ip:
        assert found[f"Layer2VIPConfig/{virtual_ip}"]["link"] == "uplink"
    assert "eth0" not in config
    assert _keys_of(found) == _expected_keys(encryption)


def test_a_board_differs_from_a_virtual_machine_in_nothing_else(secrets):
    """Firewall, audit, admission, kubelet: a board has the same walls."""
    changes = {key: BOARD[key] for key in ("platform", "install_disk")}
    virtual = documents(machine_config.generate_config(secrets, cluster(), machine()))
    board = documents(machine_config.generate_config(secrets, cluster(), machine(**changes)))
    for found, name in ((virtual, "eth0"), (board, "uplink")):
        assert found.pop(f"LinkConfig/{name}")["name"] == name
        del found["machine"]["machine"]["install"]
    del board["LinkAliasConfig/uplink"]
    assert board == virtual


def test_a_virtual_machine_has_no_alias(secrets):
    assert "LinkAliasConfig" not in machine_config.generate_config(secrets, cluster(), machine())


def test_the_mode_of_the_check_is_the_nodes(secrets):
    """On metal Talos wants a disk to install to; to a cloud's node it is all the same."""
    config = machine_config.generate_config(secrets, cluster(), machine(**BOARD))
    without = config.replace("disk: /dev/mmcblk0", "disk: ''")
    assert without != config
    machine_config.validate(without)
    with pytest.raises(RenderError, match="either install disk or diskSelector should be defined"):
        machine_config.validate(without, Platform.METAL)


def _keys_of(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: found[f"VolumeConfig/{name}"]["encryption"]["keys"]
        for name in ("STATE", "EPHEMERAL")
        if f"VolumeConfig/{name}" in found
    }


def _expected_keys(encryption: Encryption) -> dict[str, Any]:
    tpm = {"tpm": {"checkSecurebootStatusOnEnroll": True, "options": {"pcrs": [7]}}}
    source: dict[str, Any] = {Encryption.NODE_ID: {"nodeID": {}}, Encryption.TPM: tpm}.get(encryption, {})
    if not source:
        return {}
    return {
        "STATE": [{"slot": 0} | source],
        "EPHEMERAL": [{"slot": 0} | source | {"lockToState": True}],
    }


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(name, secrets):
    config = machine_config.generate_config(secrets, *GOLDENS[name])
    machine_config.validate(config, GOLDENS[name][1].platform)
    text = shown(config, secrets)
    for value in secret_texts(secrets):
        assert value not in text
    assert "LS0tLS1CRUdJTi" not in text, "a PEM block that is none of the secrets"
    assert_golden(f"{name}.yaml", text)


def test_the_same_input_gives_the_same_bytes(secrets):
    for spec, node in GOLDENS.values():
        first, second = (machine_config.generate_config(secrets, spec, node) for _ in range(2))
        assert first == second


def test_each_cluster_has_secrets_of_its_own(secrets):
    other = machine_config.generate_secrets()
    assert not secret_texts(secrets).keys() & secret_texts(other).keys()
    assert list(secret_texts(secrets).values()) == list(secret_texts(other).values())


def test_without_a_kubernetes_version_talosctl_takes_its_own(secrets):
    config = machine_config.generate_config(secrets, cluster(kubernetes_version=None), machine())
    machine_config.validate(config)
    other = machine_config.generate_config(secrets, cluster(kubernetes_version="1.35.1"), machine())
    assert ":v1.35.1" in other
    assert ":v1.35.1" not in config


# --- the operator's access


def test_talosconfig_names_the_control_planes_and_asks_one_of_them(secrets):
    spec = cluster(endpoint=VIRTUAL_IP, virtual_ip=VIRTUAL_IP, control_planes=CONTROL_PLANES)
    text = machine_config.talosconfig(secrets, spec)
    document = yaml.safe_load(text)
    context = document["contexts"]["unit"]
    assert (document["context"], list(document["contexts"])) == ("unit", ["unit"])
    assert context["endpoints"] == list(CONTROL_PLANES)
    assert context["nodes"] == [CONTROL_PLANES[0]]
    assert context["ca"] == yaml.safe_load(secrets)["certs"]["os"]["crt"]
    certificate = x509.load_pem_x509_certificate(base64.b64decode(context["crt"]))
    authority = x509.load_pem_x509_certificate(base64.b64decode(context["ca"]))
    certificate.verify_directly_issued_by(authority)
    assert [name.value for name in certificate.subject] == ["os:admin"]
    # The docstring promises a year, and that no two are the same.
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=365)
    assert machine_config.talosconfig(secrets, spec) != text


# --- walls, one by one; only what talosctl's check does not see


def test_pod_security_is_restricted_everywhere_but_in_kube_system(secrets):
    config = machine_config.generate_config(secrets, cluster(), machine())
    plugins = documents(config)["machine"]["cluster"]["apiServer"]["admissionControl"]
    assert [plugin["name"] for plugin in plugins] == ["PodSecurity"]
    settings_ = plugins[0]["configuration"]
    assert {settings_["defaults"][level] for level in ("enforce", "audit", "warn")} == {"restricted"}
    # A namespace that is named twice stops the API server (pod-security-admission, validation.go).
    assert settings_["exemptions"] == {"namespaces": ["kube-system"], "runtimeClasses": [], "usernames": []}


def test_the_audit_policy_is_ours_alone_and_never_shows_a_secret(secrets):
    config = machine_config.generate_config(secrets, cluster(), machine())
    policy = documents(config)["machine"]["cluster"]["apiServer"]["auditPolicy"]
    rules = policy["rules"]
    assert rules[-1] == {"level": "Metadata"}
    first_with_a_body = next(
        i for i, rule in enumerate(rules) if rule["level"] in {"Request", "RequestResponse"}
    )
    before = [rule for rule in rules[:first_with_a_body] if rule["level"] == "Metadata"]
    core = next(group for rule in before for group in rule["resources"] if group["group"] == "")
    assert {"secrets", "configmaps", "serviceaccounts/token"} <= set(core["resources"])
    # What is left out is left out for nodes and health checks only.
    for rule in rules:
        if rule["level"] == "None":
            assert rule.get("userGroups") == ["system:nodes"] or set(rule) == {"level", "nonResourceURLs"}
    assert all(list(rule) != ["level"] for rule in rules[:-1]), "a rule for everything hides those after it"


@pytest.mark.parametrize("together", [False, True])
def test_workloads_run_on_control_planes_only_when_told(secrets, together):
    config = machine_config.generate_config(secrets, cluster(schedule_on_control_planes=together), machine())
    assert documents(config)["machine"]["cluster"]["allowSchedulingOnControlPlanes"] is together


def test_the_firewall_of_a_control_plane(secrets):
    spec = cluster(control_planes=CONTROL_PLANES, workers=("10.11.0.40", "10.11.0.64/26"))
    config = machine_config.generate_config(secrets, spec, machine())
    control_planes = {"10.11.0.20/31", "10.11.0.22/32"}
    nodes = control_planes | {"10.11.0.40/32", "10.11.0.64/26"}
    assert ports_open(config) == {
        "tcp/50000": {"10.11.0.1/32"} | control_planes,
        "tcp/50001": nodes,
        "tcp/6443": {"10.11.0.1/32", "10.244.0.0/16"} | nodes,
        "tcp/2379-2380": control_planes,
        "tcp/10250": {"10.244.0.0/16"} | nodes,
        "udp/4789": nodes,
    }


def test_the_firewall_of_a_worker(secrets):
    config = machine_config.generate_config(secrets, cluster(workers=("10.11.0.40",)), worker())
    nodes = {"10.11.0.20/32", "10.11.0.40/32"}
    assert ports_open(config) == {
        "tcp/50000": {"10.11.0.1/32", "10.11.0.20/32"},
        "tcp/10250": {"10.244.0.0/16"} | nodes,
        "udp/4789": nodes,
    }


def test_a_worker_from_a_network_changes_no_other_node(secrets):
    """The cluster is described by the network that workers come from, so each new one fits what is there."""
    spec = cluster(workers=("10.11.0.0/24",))
    before = machine_config.generate_config(secrets, spec, machine())
    added = machine_config.generate_config(
        secrets, spec, worker(hostname="worker-2", address="10.11.0.41/24")
    )
    machine_config.validate(added)
    assert machine_config.generate_config(secrets, spec, machine()) == before


def test_nobody_public_is_asked(secrets):
    """Names, time and discovery: whatever is not configured goes to a public server by Talos' defaults."""
    config = machine_config.generate_config(secrets, cluster(), machine())
    found = documents(config)
    assert found["ResolverConfig"]["nameservers"] == [{"address": "10.11.0.1"}]
    assert found["TimeSyncConfig"]["ntp"] == {"servers": ["10.11.0.1"]}
    assert "discovery.talos.dev" not in config


# --- what goes in comes out


LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["off", "on", "no", "yes", "null", "true", "1", "007", "1e3", "0x1f", "12-34", "2026-11-24"]
)


@settings(max_examples=12)
@given(LABELS, LABELS, st.integers(0, 255), st.integers(2, 251))
def test_names_and_addresses_survive(secrets, hostname, cluster_name, third, fourth):
    ip = f"10.20.{third}.{fourth}"
    node = machine(hostname=hostname, address=f"{ip}/16", gateway="10.20.0.1")
    if ip == "10.20.0.1":
        return
    spec = cluster(name=cluster_name, endpoint=ip, control_planes=(ip,), operator_networks=("10.20.0.1",))
    config = machine_config.generate_config(secrets, spec, node)
    machine_config.validate(config)
    found = documents(config)
    assert found["HostnameConfig"]["hostname"] == hostname
    assert found["LinkConfig/eth0"]["addresses"] == [{"address": f"{ip}/16"}]
    assert found["machine"]["cluster"]["clusterName"] == cluster_name
    files = seed.files(config, node, "11111111-2222-3333-4444-555555555555")
    assert yaml.safe_load(files["meta-data"])["local-hostname"] == hostname
    assert yaml.safe_load(files["network-config"])["ethernets"]["eth0"]["addresses"] == [f"{ip}/16"]


# --- the seed


def test_the_seed_holds_the_very_config_and_a_network_that_is_never_empty(secrets):
    node = machine(nameservers=("10.11.0.2",))
    config = machine_config.generate_config(secrets, cluster(), node)
    files = seed.files(config, node, "11111111-2222-3333-4444-555555555555")
    assert seed.LABEL == "cidata"
    assert set(files) == {"user-data", "meta-data", "network-config"}
    assert files["user-data"] == config
    assert not config.startswith("#")
    assert yaml.safe_load(files["meta-data"]) == {
        "instance-id": "11111111-2222-3333-4444-555555555555",
        "local-hostname": "cp-1",
    }
    assert yaml.safe_load(files["network-config"]) == {
        "version": 2,
        "ethernets": {
            "eth0": {
                "dhcp4": False,
                "addresses": ["10.11.0.20/24"],
                "gateway4": "10.11.0.1",
                "nameservers": {"addresses": ["10.11.0.2"]},
            }
        },
    }
    for value in secret_texts(secrets):
        assert value not in files["meta-data"] + files["network-config"]
