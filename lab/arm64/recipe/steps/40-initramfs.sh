#!/bin/bash
# A small initramfs: busybox and the modules that reach the root file system.
. "$RECIPE/steps/common.sh"
release=$(kernel_release)

mkdir -p "$INITRAMFS"/{bin,dev,etc,proc,run,sys,root,lib}
cp "$ROOTFS/usr/bin/busybox" "$INITRAMFS/bin/busybox"
for applet in sh awk cat cut mkdir modprobe mount od sleep switch_root; do
    ln -s busybox "$INITRAMFS/bin/$applet"
done

modules=$INITRAMFS/lib/modules/$release
mkdir -p "$modules"
cp "$ROOTFS/usr/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$modules/"
list modules.txt | sed -n 's/^early //p' >"$INITRAMFS/etc/early-modules"
# shellcheck disable=SC2046 # a list of names
modprobe -d "$ROOTFS" -S "$release" --show-depends --all $(cat "$INITRAMFS/etc/early-modules") |
    awk '/^insmod/ { print $2 }' | sort -u | while read -r file; do
    install -D -m 0644 "$file" "$modules/${file#*/"$release"/}"
done
depmod -b "$INITRAMFS" "$release"
install -m 0755 "$RECIPE/initramfs/init" "$INITRAMFS/init"

(cd "$INITRAMFS" && find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc --quiet --owner=0:0) |
    gzip -9 >"$WORK/initramfs8"
