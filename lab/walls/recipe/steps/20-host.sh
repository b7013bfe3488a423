#!/bin/bash
# What an operator sets on such a host: sVirt demanded of every domain, a login who may use libvirt.
. "$RECIPE/steps/common.sh"
etc=$ROOTFS/etc

cp -R --no-preserve=mode,ownership "$RECIPE/guest/." "$ROOTFS/" # modes are set here, git keeps none
chmod 0755 "$ROOTFS/usr/local/sbin/walls-keys"
chmod 0440 "$etc/sudoers.d/keeper"
chroot "$ROOTFS" useradd --create-home --shell /bin/bash --groups libvirt --password '*' keeper

cat >>"$etc/libvirt/qemu.conf" <<'CONF'

security_driver = "apparmor"
security_default_confined = 1
security_require_confined = 1
CONF
# The same policy, compiled in half the time: seconds a domain under emulation.
printf '\nOptimize=no-expr-simplify\n' >>"$etc/apparmor/parser.conf"

rm -f "$etc"/ssh/ssh_host_* "$etc"/apt/sources.list.d/* "$etc"/apt/sources.list # it asks no mirror
: >"$etc/machine-id"
rm -rf "$ROOTFS"/var/{cache/apt,lib/apt/lists,log}/*
mkdir -p "$ROOTFS/var/log/libvirt/qemu" # a directory of the package
chroot "$ROOTFS" systemctl --quiet enable \
    systemd-networkd.service ssh.service apparmor.service libvirtd.service libvirtd.socket walls-keys.service
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    logrotate.timer e2scrub_reap.service systemd-networkd-wait-online.service getty@tty1.service \
    systemd-pstore.service; do
    chroot "$ROOTFS" systemctl --quiet mask "$unit" # nothing but the tests runs
done
