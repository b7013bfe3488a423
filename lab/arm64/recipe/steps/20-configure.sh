#!/bin/bash
# The packages are installed. dpkg of this machine unpacks; the guest's own dpkg configures, emulated.
. "$RECIPE/steps/common.sh"

if [ "${1:-}" != --here ]; then
    exec bash "$RECIPE/steps/foreign.sh" bash "$0" --here
fi

export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
# Gone with the namespace.
mount --rbind /dev "$ROOTFS/dev"
mount --rbind /proc "$ROOTFS/proc"
printf '#!/bin/sh\nexit 101\n' >"$ROOTFS/usr/sbin/policy-rc.d" # no service is started here
chmod 0755 "$ROOTFS/usr/sbin/policy-rc.d"
# Keys that are there are not made; these go again below.
for kind in rsa ecdsa ed25519; do : >"$ROOTFS/etc/ssh/ssh_host_${kind}_key"; done

dpkg --root="$ROOTFS" --force-architecture --force-depends --force-unsafe-io --force-confnew \
    --unpack "$PACKAGES"/*.deb
chroot "$ROOTFS" dpkg --force-unsafe-io --force-confnew --configure --pending

left=$(chroot "$ROOTFS" dpkg --audit)
[ -z "$left" ] || fail "not every package was installed: $left"

# As Raspberry Pi's own image build leaves it: a login without a password, and SSH off.
chroot "$ROOTFS" useradd --create-home --uid 1000 --shell /bin/bash --groups adm,sudo,users,netdev --password '*' pi
chroot "$ROOTFS" usermod --password '*' root
chroot "$ROOTFS" systemctl --quiet disable ssh.service
rm -f "$ROOTFS/usr/sbin/policy-rc.d" "$ROOTFS"/etc/ssh/ssh_host_*
