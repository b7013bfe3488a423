#!/bin/bash
# What makes a Debian tree look like Raspberry Pi OS: mounts, first boot, names; and the kernel modules.
. "$RECIPE/steps/common.sh"
etc=$ROOTFS/etc

cp -R --no-preserve=mode,ownership "$RECIPE/guest/." "$ROOTFS/" # modes are set here, git keeps none
chmod 0755 "$ROOTFS/usr/lib/raspberrypi-sys-mods/firstboot"
chmod 0440 "$etc/sudoers.d/010_pi-nopasswd"
mkdir -p "$ROOTFS/boot/firmware"
sed -i "s/@DISK_ID@/$DISK_ID/" "$etc/fstab"
ln -s /lib/systemd/system/userconfig.service "$etc/systemd/system/multi-user.target.wants/"
sed -i 's/^#\?CONF_SWAPSIZE=.*/CONF_SWAPSIZE=16/' "$etc/dphys-swapfile" # MiB; the real one's 512 take long to write
: >"$etc/machine-id"
rm -f "$etc/resolv.conf" "$etc"/apt/sources.list.d/* "$etc"/apt/sources.list # it asks no mirror
rm -rf "$ROOTFS"/var/{cache/apt,lib/apt/lists,log}/*

release=$(kernel_release)
source=$KERNEL/lib/modules/$release
modules=$ROOTFS/usr/lib/modules/$release
mkdir -p "$modules"
cp "$source"/modules.{builtin,builtin.modinfo,order} "$modules/"
depmod -b "$KERNEL" "$release"
names=$(list modules.txt | sed -e '/^all /d' -e 's/^early //')
names+=" $(list modules.txt | sed -n 's/^all //p' | while read -r folder; do
    find "$source/kernel/$folder" -name '*.ko' -printf '%f\n' | sed 's/\.ko$//'
done)"
# shellcheck disable=SC2086 # a list of names
files=$(modprobe -d "$KERNEL" -S "$release" --show-depends --all $names) \
    || fail "kernel $release lacks a module of modules.txt; the lines above say which"
awk '/^insmod/ { print $2 }' <<<"$files" | sort -u | while read -r file; do
    install -D -m 0644 "$file" "$modules/${file#*/"$release"/}"
done
depmod -b "$ROOTFS" "$release"
