#!/bin/bash
# What becomes the read-only /usr: units, Ignition, kernel modules, and the factory /etc.
. "$RECIPE/steps/common.sh"
etc=$ROOTFS/etc
usr=$ROOTFS/usr
units=$usr/lib/systemd/system

# --- out: host state, package management, and every unit that a machine with a fixed /usr does not need
rm -rf "$etc"/ssh/ssh_host_* "$etc"/ssh/sshd_config.d/* "$etc"/machine-id "$etc"/hostname "$etc"/resolv.conf \
    "$etc"/apt "$etc"/dpkg "$etc"/cron.* "$etc"/kernel "$etc"/update-motd.d "$etc"/motd \
    "$etc"/systemd/system/*.wants "$etc"/systemd/system/*.service
rm -rf "$usr"/lib/apt "$usr"/lib/dpkg "$usr"/lib/x86_64-linux-gnu/{perl*,gconv} "$usr"/lib/udev/hwdb.d \
    "$usr"/share/{bash-completion,common-licenses,perl*,zoneinfo,zsh,keyrings,pixmaps,polkit-1}
rm -rf "$usr"/bin/{apt*,dpkg*,perl*} "$usr"/local
for unit in systemd-{firstboot,hwdb-update,journal-catalog-update,sysusers,update-done,update-utmp} \
    systemd-{update-utmp-runlevel,pcrphase,pcrphase-initrd,pcrphase-sysinit,pcrmachine} ldconfig getty-static; do
    rm -f "$units/$unit.service"
done
# mounts, modules and targets that nothing here asks for, and that emulation makes slow
rm -f "$units"/sysinit.target.wants/{*.automount,*.mount,cryptsetup.target,integritysetup.target,veritysetup.target} \
    "$units"/sysinit.target.wants/{kmod-static-nodes,systemd-binfmt,systemd-repart}.service \
    "$units"/*/systemd-ask-password-*.path "$units"/systemd-{network-generator,pstore,remount-fs}.service
ln -s /dev/null "$units/modprobe@drm.service"
rm -rf "$usr"/lib/systemd/system-generators
rm -f "$units"/{ssh*,rescue-ssh*,apt-*,dpkg-*,e2scrub*,fstrim*,*getty@*,autovt@}.{service,socket,timer,target} \
    "$units"/{getty,timers}.target.wants/*
# rules for hardware that the domain has not; each of 30 files is read at every boot
rm -f "$usr"/lib/udev/rules.d/*-{autosuspend,drm,fido-id,infiniband,persistent-alsa,persistent-v4l,sensor}.rules \
    "$usr"/lib/udev/rules.d/*-{persistent-storage-tape,btrfs,camera,joystick,memory,mouse,touchpad}.rules \
    "$usr"/lib/udev/rules.d/*-{seat,seat-late,uaccess,probe_mtd,sound-card,debian-compat,hwclock,e2scrub}.rules

# --- in: the recipe's files. Modes are set here, git keeps none.
cp -R --no-preserve=mode,ownership "$RECIPE/guest/." "$ROOTFS/"
mkdir -p "$etc/ssh/sshd_config.d" "$usr/local/bin"
chmod 0440 "$etc/sudoers.d/core"
chmod 0600 "$etc/ssh/sshd_config"
ln -s ../run/systemd/resolve/stub-resolv.conf "$etc/resolv.conf"
ln -s sshd.service "$units/ssh.service"
want() { mkdir -p "$units/$1.wants"; ln -sf "../$2" "$units/$1.wants/$2"; }
want multi-user.target sshd.service
want multi-user.target systemd-networkd.service
want multi-user.target systemd-resolved.service
want network-online.target systemd-networkd-wait-online.service

# A dangling alias makes systemd skip all presets, and with them Ignition's units.
chroot "$ROOTFS" find /usr/lib/systemd /etc/systemd -xtype l ! -lname /dev/null -delete

# --- users: core as on Flatcar, and the groups that configs put it in
chroot "$ROOTFS" groupadd -g 500 core
chroot "$ROOTFS" groupadd -g 233 -r docker
chroot "$ROOTFS" groupadd -g 10 -r wheel 2>/dev/null || chroot "$ROOTFS" groupadd -r wheel
chroot "$ROOTFS" useradd -K UID_MIN=100 -u 500 -g 500 -G sudo,wheel,adm,systemd-journal -M -d /home/core -s /bin/bash core

# --- Ignition and its helper
install -m 0755 "$IGNITION" "$usr/bin/ignition"
install -m 0755 "$RECIPE/initramfs/ignition-kargs-helper" "$usr/bin/ignition-kargs-helper"
chroot "$ROOTFS" /usr/bin/ignition --version >/dev/null \
    || fail "$IGNITION does not run in the guest (built against a newer C library?): build it on Debian 12"

# --- kernel modules
release=$(kernel_release)
modules=$usr/lib/modules/$release
source=$KERNEL/lib/modules/$release
mkdir -p "$modules"
cp "$source"/modules.{builtin,builtin.modinfo,order} "$modules/"
depmod -b "$KERNEL" "$release"
for name in $(list modules.txt | sed 's/^early //'); do
    files=$(modprobe -d "$KERNEL" -S "$release" -D -q "$name") \
        || fail "kernel $release has no module $name: take it out of modules.txt or name its successor"
    for file in $(awk '/^insmod/ { print $2 }' <<<"$files"); do
        install -D -m 0644 "$file" "$modules/${file#*/"$release"/}"
    done
done
depmod -b "$ROOTFS" "$release"

# --- the factory /etc, lower layer of the guest's /etc
mkdir -p "$usr/share/flatcar"
cp -a "$etc" "$usr/share/flatcar/etc"
