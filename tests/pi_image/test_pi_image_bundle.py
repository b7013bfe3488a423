"""The bundle: the same text each time, the tar that tar(1) makes, no value that breaks out, clean scripts."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from pi_image_support import HOST_KEY, SETTINGS

from layer1.butane import InstallerPin
from layer1.errors import RenderError
from layer1.paths import ASSETS
from layer1.pi.bundle import archive, boot_files, bundle, digest
from layer1.pi.release import Mechanism, Release

PLAIN = "--create --format=ustar --owner=root:0 --group=root:0 --numeric-owner --mtime=@0 --mode=0600"
"""How apply.sh calls tar."""
SCRIPTS = sorted((ASSETS / "pi").rglob("*.sh"))


def test_the_archive_is_what_tar_itself_makes_of_the_folder(tmp_path: Path) -> None:
    content = bundle(SETTINGS)
    with tarfile.open(fileobj=io.BytesIO(archive(content))) as tar:
        assert [member.name for member in tar] == sorted(content)
        tar.extractall(tmp_path, filter="data")
    (tmp_path / "apply.sh").chmod(0o700)  # as receive.sh leaves it
    names = "".join(f"{path.relative_to(tmp_path)}\n" for path in tmp_path.rglob("*") if path.is_file())
    listed = subprocess.run(
        ["sort"], input=names, env={"LC_ALL": "C"}, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    command = ["tar", *PLAIN.split(), "--no-recursion", "--files-from=-"]
    made = subprocess.run(
        command, input=listed.encode(), cwd=tmp_path, check=True, capture_output=True, timeout=60
    ).stdout
    assert made == archive(content)
    assert hashlib.sha256(made).hexdigest() == digest(content)


def test_an_archive_of_any_size_ends_where_tar_ends_it(tmp_path: Path) -> None:
    for size in (0, 1, 511, 512, 513, 8000, 8704, 9000, 9216, 9728, 10240):
        (tmp_path / "x").write_bytes(b"y" * size)
        command = ["tar", *PLAIN.split(), "x"]
        made = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60).stdout
        assert archive({"x": "y" * size}) == made, size


def test_a_path_too_long_for_the_archive_is_refused() -> None:
    with pytest.raises(RenderError, match="99 characters"):
        archive({"a" * 100: ""})


def test_no_placeholder_is_left_and_the_same_settings_are_the_same_text() -> None:
    content = bundle(SETTINGS)
    assert content == bundle(replace(SETTINGS))
    for path, text in content.items():
        rendered = path not in ("apply.sh",) and not path.endswith(
            ("receive.sh", "status.sh", "k3s-install.sh")
        )
        assert not rendered or "@" not in text.replace("@.service", "").replace("@openssh", ""), path


@pytest.mark.parametrize(
    "change",
    [
        {"hostname": "pi-2"},
        {"user": "ops"},
        {"ssh_authorized_keys": (SETTINGS.status_public,)},
        {"host_public": SETTINGS.status_public},
        {"address": "192.168.1.30/24"},
        {"gateway": "192.168.1.254"},
        {"nameservers": ("1.1.1.1",)},
        {"cluster_networks": ()},
        {"operator_networks": ()},
        {"k3s_version": "v1.36.5+k3s1"},
    ],
)
def test_each_setting_is_part_of_the_digest(change: dict[str, object]) -> None:
    assert digest(bundle(replace(SETTINGS, **change))) != digest(bundle(SETTINGS))  # type: ignore[arg-type]


def test_the_boundary_to_layer_2_is_flatcars() -> None:
    content = bundle(SETTINGS)
    dropin = content["files/etc/systemd/system/k3s.service.d/10-layer1.conf"]
    assert (
        "\nExecStart=\nExecStart=/usr/local/bin/k3s server --config /etc/rancher/k3s/config.yaml\n" in dropin
    )
    assert "ConditionPathExists=/etc/rancher/k3s/config.yaml" in dropin
    template = (ASSETS / "butane/flatcar-node.bu.yaml").read_text()
    ours = "\n".join(
        line for line in content["files/etc/systemd/system/k3s-config.path"].splitlines() if line[:1] != "#"
    )
    assert (
        ours.split()
        == template[template.index("name: k3s-config.path") :].split("|\n")[1].split()[: len(ours.split())]
    )
    for name in ("k3s-install.sh", "status.sh"):
        assert content[f"files/usr/local/lib/layer1/{name}"] == (ASSETS / "butane" / name).read_text()
    assert not any(path.endswith("config.yaml") for path in content)
    # Each line is read by systemd as an assignment, and the same variables as on Flatcar less SELinux's.
    names = [line.partition("=")[0] for line in content["files/etc/layer1/k3s-install.env"].splitlines()]
    assert names == [
        "LAYER1_INSTALLER_URL",
        "LAYER1_INSTALLER_SHA512",
        "GITHUB_URL",
        "INSTALL_K3S_VERSION",
        "INSTALL_K3S_BIN_DIR",
        "INSTALL_K3S_SKIP_ENABLE",
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hostname": "pi 1"}, "hostname"),
        ({"hostname": "$(reboot)"}, "hostname"),
        ({"user": "root"}, "user"),
        ({"user": "pi"}, "user"),
        ({"user": "operator"}, "user"),  # a group of Debian's
        ({"user": "layer1-apply"}, "user"),
        ({"user": "a b"}, "user"),
        ({"ssh_authorized_keys": ()}, "ssh_authorized_keys"),
        ({"ssh_authorized_keys": (f"{SETTINGS.status_public}\nssh-rsa x",)}, "ssh_authorized_keys"),
        ({"ssh_authorized_keys": (HOST_KEY,)}, "ssh_authorized_keys"),
        ({"host_private": "no key"}, "host_private"),
        ({"apply_public": "no key"}, "apply_public"),
        ({"address": "192.168.1.20"}, "address"),
        ({"address": "fd00::1/64"}, "address"),
        ({"gateway": "10.0.0.1"}, "gateway"),
        ({"nameservers": ()}, "nameservers"),
        ({"nameservers": ("example.org",)}, "nameservers"),
        ({"cluster_networks": ("192.168.1.5/24",)}, "cluster_networks"),
        ({"operator_networks": ("0.0.0.0/0 accept",)}, "operator_networks"),
        ({"k3s_version": "latest"}, "k3s_version"),
        (
            {"installer": InstallerPin(url="file:///x", sha512="ab" * 64, releases_url="https://x.org/")},
            "installer.url",
        ),
        (
            {"installer": InstallerPin(url="https://x.org/a", sha512="ab", releases_url="https://x.org/")},
            "sha512",
        ),
        (
            {
                "installer": InstallerPin(
                    url="https://x.org/a", sha512="ab" * 64, releases_url="https://x.org/\nA=b"
                )
            },
            "releases_url",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_name_alone(
    change: dict[str, object], named: str
) -> None:
    with pytest.raises(RenderError) as refused:
        bundle(replace(SETTINGS, **change))  # type: ignore[arg-type]
    assert named in str(refused.value)
    for value in change.values():
        if isinstance(value, str) and value not in ("pi", "root"):
            assert value not in str(refused.value)


@pytest.mark.parametrize("mechanism", Mechanism)
def test_the_host_key_is_in_the_archive_alone(mechanism: Mechanism) -> None:
    release = Release(codename="trixie", image_date="2026-04-13", mechanism=mechanism)
    files = boot_files(SETTINGS, release).files
    secret = HOST_KEY.splitlines()[2].encode()
    assert [name for name, data in files.items() if secret in data] == ["layer1.tar"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "--severity=style", "--external-sources", str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ASSETS.parent,
    )
    assert done.returncode == 0, done.stdout


def test_the_firewall_touches_no_table_but_its_own() -> None:
    rules = bundle(SETTINGS)["files/etc/layer1/firewall.nft"]
    said = [line.strip() for line in rules.splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in said if "table" in line] == [
        "table inet layer1",
        "delete table inet layer1",
        "table inet layer1 {",
    ]
    assert not any("flush" in line for line in said)
    unit = bundle(SETTINGS)["files/etc/systemd/system/layer1-firewall.service"]
    assert "ExecStop" not in unit  # a stopped unit leaves the rules in force
