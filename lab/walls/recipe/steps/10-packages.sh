#!/bin/bash
# The packages of a Debian 12 host, its kernel and a small initramfs with them.
. "$RECIPE/steps/common.sh"

include=$(list packages.txt | paste -sd,)
excludes=()
for folder in doc man locale info i18n lintian bug; do
    excludes+=(--dpkgopt="path-exclude=/usr/share/$folder/*")
done
# Drivers of machines that this one is not; the kernel itself is untouched.
for folder in sound drivers/gpu drivers/media drivers/infiniband drivers/staging drivers/scsi \
    drivers/net/wireless drivers/net/ethernet; do
    excludes+=(--dpkgopt="path-exclude=/lib/modules/*/kernel/$folder/*")
done

# Before the kernel is configured: an initramfs with what reaches the disk.
mmdebstrap --mode=root --variant=minbase --format=directory \
    --include="$include" --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt=force-unsafe-io "${excludes[@]}" \
    --essential-hook='
        set -e
        mkdir -p "$1/etc/initramfs-tools/conf.d"
        printf "MODULES=list\nCOMPRESS=lz4\n" >"$1/etc/initramfs-tools/conf.d/walls"
        printf "virtio_pci\nvirtio_blk\next4\n" >"$1/etc/initramfs-tools/modules"' \
    bookworm "$ROOTFS" "$APT_SOURCES" \
    || fail "mmdebstrap could not make the Debian tree; the lines above say why"
