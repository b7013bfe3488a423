"""What the rules refuse: a resource for each, its name beginning with that of the rule."""

from __future__ import annotations

import base64
from typing import Any

import pulumi
import pulumi_libvirt as libvirt
from policy_programs import KEY, SHEET, domain_arguments, image, seed, sheet
from pulumi_command import local, remote

from layer1 import domain_sheet

PRIVATE = {"xslt": domain_sheet.volume_sheet()}
SILENT = ["stdout", "stderr"]
host = libvirt.Provider("host", uri="qemu:///system")
on_host = pulumi.ResourceOptions(provider=host)
network = libvirt.Network("network", mode="none", addresses=["10.9.9.0/24"], opts=on_host)


def domain(name: str, xslt: str = SHEET, **changes: Any) -> None:
    changes = {"network_interfaces": [{"network_id": network.id, "mac": "52:54:00:00:00:01"}]} | changes
    xml = {"xml": {"xslt": xslt}} if xslt else {}
    libvirt.Domain(name, **domain_arguments(**changes), **xml, opts=on_host)


def volume(name: str, opts: pulumi.ResourceOptions = on_host, **arguments: Any) -> None:
    libvirt.Volume(name, **({"pool": "p", "format": "qcow2", "xml": PRIVATE} | arguments), opts=opts)


def command(name: str, silent: list[str] = SILENT, **arguments: Any) -> None:
    given = {"create": "true", "logging": local.Logging.NONE} | arguments
    local.Command(name, **given, opts=pulumi.ResourceOptions(additional_secret_outputs=silent))


domain("domain-guarantees none", xslt="")
domain("domain-guarantees other", xslt=SHEET.replace("clean-traffic", "allow-incoming-ipv4"))
domain("domain-guarantees secret", xslt=pulumi.Output.secret(SHEET))
domain("domain-guarantees type", type="qemu")
domain("domain-guarantees machine", machine="pc")
domain("domain-guarantees cpu", cpu={"mode": "custom"})
domain("domain-guarantees uuid", xslt=sheet(uuid=""))
domain("domain-guarantees address", xslt=sheet(ip=""))
domain("domain-guarantees virtual", xslt=sheet(virtual_ip="0.0.0.0/0"))
domain("domain-guarantees pool", xslt=sheet(pool_path="p"))
domain("domain-guarantees svirt", xslt=sheet(svirt="selinux"))
domain("domain-guarantees limit", xslt=sheet(hard_limit_mib="999999"))
domain("domain-guarantees memory", memory=pulumi.Output.secret(512))
domain("domain-guarantees firmware", xslt=sheet(secure_boot="yes"))

domain("domain-devices graphics", graphics={"type": "vnc"})
domain("domain-devices video", video={"type": "cirrus"})
domain("domain-devices console", consoles=[{"type": "pty", "target_port": "0"}])
domain("domain-devices tpm", tpm={"model": "tpm-tis"})
domain("domain-devices files", filesystems=[{"source": "/", "target": "host"}])
domain("domain-devices kernel", kernel="/boot/vmlinuz")
domain("domain-devices emulator", emulator="/tmp/qemu")
domain("domain-devices agent", qemu_agent=True)
domain("domain-devices ignition", coreos_ignition="/p/ignition")
domain("domain-devices file", disks=[{"file": "/etc/shadow"}])
domain("domain-devices url", disks=[{"url": "http://host.example/disk"}])
domain("domain-devices device", disks=[{"block_device": "/dev/sda"}])
domain("domain-devices climb", disks=[{"block_device": "/dev/disk/by-id/../../sda"}])
domain("domain-devices bridge", network_interfaces=[{"bridge": "br0", "mac": "52:54:00:00:00:01"}])
domain("domain-devices name", network_interfaces=[{"network_name": "default"}])
domain("domain-devices disks", disks=pulumi.Output.secret([{"volume_id": "/p/root"}]))
domain("domain-devices seed", cloudinit=pulumi.Output.secret("/p/seed.iso"))

domain("strong-walls accel", xslt=sheet(accel="tcg"), type="qemu", cpu={"mode": "maximum"})
domain("strong-walls svirt", xslt=sheet(svirt="none"))
domain("strong-walls limit", xslt=sheet(hard_limit_mib="0"))

volume("volume-source url", source="https://host.example/image.qcow2")
volume("volume-source file", source="/etc/shadow")
volume("volume-source partial", source=image().replace("blobs", "partial"))
volume("volume-source climb", source=f"{image()}/../../../../somewhere.qcow2")
volume("volume-source secret", source=pulumi.Output.secret(seed()))
volume("volume-source base", base_volume_name="theirs", base_volume_pool="default")
volume("own-base path", base_volume_id="/var/lib/libvirt/images/theirs.qcow2")
domain("own-parts disk", disks=[{"volume_id": "/var/lib/libvirt/images/theirs.qcow2"}])
domain("own-parts network", network_interfaces=[{"network_id": "theirs", "mac": "52:54:00:00:00:01"}])
volume("volume-private none", source=seed(), xml=None)
volume("volume-private open", source=seed(), xml={"xslt": PRIVATE["xslt"].replace("0600", "0644")})
libvirt.Pool("volume-private pool", type="dir", target={"path": "/p"}, opts=on_host)
volume("protected-data", size=1)

command("command-secret stdout", silent=["stderr"])
command("command-secret stderr", silent=["stdout"])
command("command-secret logging", logging=local.Logging.STDOUT)
command("command-secret default", logging=None)

command("host-keys option", create="ssh -o StrictHostKeyChecking=no host.example true")
command("host-keys delete", delete="ssh -o 'StrictHostKeyChecking accept-new' host.example true")
command("host-keys file", update="scp -oUserKnownHostsFile=/dev/null a host.example:")
command("host-keys learnt", create="ssh-keyscan host.example >>known_hosts")
command("host-keys variable", environment={"GIT_SSH_COMMAND": "ssh -o StrictHostKeyChecking=no"})
command("host-keys interpreter", interpreter=["ssh", "-o", "StrictHostKeyChecking=no", "host.example"])
command("host-keys secret", create=pulumi.Output.secret("true"))
remote.Command("host-keys remote", create="true", connection={"host": "host.example", "private_key": KEY})
libvirt.Provider("host-keys hidden", uri=pulumi.Output.secret("qemu:///system"))
libvirt.Provider("host-keys verify", uri="qemu+ssh://host.example/system?no_verify=1")
libvirt.Provider("host-keys learn", uri="qemu+ssh://host.example/system?known_hosts_verify=auto")
libvirt.Provider("host-keys clear", uri="qemu+tcp://host.example/system")

command("plain-secret key", stdin=KEY)
command("plain-secret variable", environment={"KEY": base64.b64encode(KEY.encode()).decode()})
command("plain-secret talos", stdin="cluster:\n  secretboxEncryptionSecret: c2VjcmV0\n")
command("plain-secret token", stdin="cluster:\n  token: abcdef.0123456789abcdef\n")
command("plain-secret k3s", triggers=[f"K10{'0' * 64}::server:word"])
command("plain-secret kubeconfig", stdin="client-key-data: a2V5")
command("plain-secret hash", stdin="$6$c2FsdA$aGFzaA0123456789")
command("plain-secret age", stdin="AGE-SECRET-KEY-1QQQ")
command("plain-secret address", stdin="https://user:word@host.example/")

pulumi.export("key", {"nested": [KEY]})
