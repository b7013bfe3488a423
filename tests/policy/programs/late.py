"""A volume whose source only a command tells: good or bad is known when `up` has run that."""

from __future__ import annotations

import pulumi
import pulumi_libvirt as libvirt
from pulumi_command import local

from layer1 import domain_sheet

told = local.Command(
    "told",
    create="echo /etc/hostname",
    logging=local.Logging.NONE,
    opts=pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr"]),
)
host = libvirt.Provider("host", uri="qemu:///system")
libvirt.Volume(
    "volume-source late",
    pool="no such pool",
    source=pulumi.Output.unsecret(told.stdout),
    format="raw",
    xml={"xslt": domain_sheet.volume_sheet()},
    opts=pulumi.ResourceOptions(provider=host),
)
