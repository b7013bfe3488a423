#!/bin/bash
# One ext4 file system as the whole disk; QEMU starts the kernel, which lies beside it.
. "$RECIPE/steps/common.sh"

cp "$ROOTFS"/boot/vmlinuz-* "$OUT/vmlinuz"
cp "$ROOTFS"/boot/initrd.img-* "$OUT/initrd"
rm -f "$ROOTFS"/boot/*
mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=1,nodiscard,root_owner=0:0 -d "$ROOTFS" "$OUT/host.img" 6G
