"""What the rules let pass: each thing that a rule looks at, as Layer 1 makes it."""

from __future__ import annotations

import base64

import pulumi
import pulumi_libvirt as libvirt
from policy_programs import CERTIFICATE, KEY, SHEET, domain_arguments, image, seed
from pulumi_command import local

from layer1 import domain_sheet

PRIVATE = {"xslt": domain_sheet.volume_sheet()}
host = libvirt.Provider("host", uri="qemu:///system")
libvirt.Provider(
    "other host", uri="qemu+ssh://operator@host.example/system?knownhosts=/etc/layer1/known_hosts"
)
on_host = pulumi.ResourceOptions(provider=host)
protected = pulumi.ResourceOptions(provider=host, protect=True)

pool = libvirt.Pool(
    "pool", type="dir", target={"path": "/p"}, xml={"xslt": domain_sheet.pool_sheet()}, opts=on_host
)
network = libvirt.Network("network", mode="nat", addresses=["10.9.9.0/24"], opts=on_host)
base = libvirt.Volume("base", pool="p", source=image(), format="qcow2", xml=PRIVATE, opts=on_host)
libvirt.Volume("seed", pool="p", source=seed(), format="iso", xml=PRIVATE, opts=on_host)
root = libvirt.Volume("root", pool="p", base_volume_id=base.id, size=1, xml=PRIVATE, opts=on_host)
data = libvirt.Volume("data", pool="p", format="qcow2", size=1, xml=PRIVATE, opts=protected)
quiet = pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr"])
made = local.Command(
    "command",
    create="ssh -o StrictHostKeyChecking=yes host.example true",
    stdin=pulumi.Output.secret(KEY),
    environment={"CERTIFICATE": base64.b64encode(CERTIFICATE.encode()).decode()},
    logging=local.Logging.NONE,
    opts=quiet,
)
# Known by `up` alone: what is judged then must not stop a preview.
libvirt.Volume("later", pool="p", source=made.stdout, format="qcow2", xml=PRIVATE, opts=on_host)
libvirt.Domain(
    "domain",
    **domain_arguments(),
    disks=[{"volume_id": root.id}, {"volume_id": data.id}, {"block_device": "/dev/disk/by-id/ata-1"}],
    network_interfaces=[{"network_id": network.id, "mac": "52:54:00:00:00:01"}],
    xml={"xslt": SHEET},
    opts=on_host,
)
pulumi.export("address", "10.9.9.9")
pulumi.export("key", pulumi.Output.secret(KEY))
