"""The output `layer1`: a golden, no secret, and a reader that tolerates more but not another version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from unit_support import KEYS, assert_golden, load, minimal

from layer1 import contract, machine
from layer1.contract import Layer1Outputs

IMAGE = {
    "path": "/home/operator/.cache/layer1/images/x",
    "name": "flatcar/4593.2.5/amd64/openstack",
    "version": "4593.2.5",
    "sha512": "cd" * 64,
    "verified_by": "signature",
}


def _outputs() -> dict[str, Any]:
    weak = {"accel": "tcg", "svirt": "none", "memory_hard_limit": False}
    hosts = {"home": {}, "attic": weak | {"uri": "qemu+ssh://operator@attic/system"}}
    raw = minimal(host="home", updates="reboot")
    raw["nodes"].append(raw["nodes"][0] | {"name": "k3s-2", "host": "attic"})
    stack = load(raw | {"hosts": hosts})
    nodes = {
        node.name: contract.node_output(
            stack,
            node,
            domain=machine.domain_name(stack, node),
            ssh_host_key=KEYS.host_public,
            image=IMAGE,
        )
        for node in stack.nodes
    }
    return contract.outputs(stack.stack, nodes)


def test_the_output_is_the_golden_one() -> None:
    assert_golden("contract/layer1.json", json.dumps(_outputs(), indent=1) + "\n")


def test_the_output_has_no_secret_and_no_path_of_this_machine() -> None:
    text = json.dumps(_outputs())
    assert "PRIVATE KEY" not in text
    assert not any(line in text for line in KEYS.host_private.splitlines()[1:-1])
    assert ".cache" not in text, "the image's path is this machine's, not the node's"
    assert "qemu+ssh" not in text


def test_layer2_learns_where_its_files_go() -> None:
    node = Layer1Outputs.model_validate(_outputs()).nodes["k3s-1"]
    assert node.paths.k3s_config == "/etc/rancher/k3s/config.yaml"
    assert node.paths.k3s_config_directory == "/etc/rancher/k3s"
    assert (node.ssh_user, node.role, node.os) == ("core", "server", "flatcar")


def test_every_wall_that_is_down_names_its_key() -> None:
    nodes = Layer1Outputs.model_validate(_outputs()).nodes
    assert all(wall.on and wall.key is None for wall in nodes["k3s-1"].walls.values())
    down = {name: wall.key for name, wall in nodes["k3s-2"].walls.items() if not wall.on}
    assert down == {
        name: f"layer1:hosts.attic.{key}"
        for name, key in (("hypervisor", "accel"), ("svirt", "svirt"), ("memory_hard_limit",) * 2)
    }


def test_a_reader_tolerates_what_a_later_version_adds() -> None:
    more = _outputs() | {"added": {"later": True}}
    more["nodes"]["k3s-1"] |= {"zone": "attic"}
    more["nodes"]["k3s-1"]["image"] |= {"signer": "x"}
    assert Layer1Outputs.model_validate(more) == Layer1Outputs.model_validate(_outputs())


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_a_reader_refuses_another_version(version: Any) -> None:
    with pytest.raises(ValidationError, match="schema_version"):
        Layer1Outputs.model_validate(_outputs() | {"schema_version": version})


def test_a_reader_refuses_an_output_that_lacks_a_part() -> None:
    lacking = _outputs()
    del lacking["nodes"]["k3s-1"]["ssh_host_key"]
    with pytest.raises(ValidationError, match=r"nodes\.k3s-1\.ssh_host_key"):
        Layer1Outputs.model_validate(lacking)


def test_the_output_survives_json() -> None:
    assert json.loads(json.dumps(_outputs())) == _outputs()
