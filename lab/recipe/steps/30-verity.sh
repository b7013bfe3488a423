#!/bin/bash
# /usr as a squashfs, and its dm-verity tree.
. "$RECIPE/steps/common.sh"

mksquashfs "$ROOTFS/usr" "$WORK/usr.squashfs" -comp zstd -Xcompression-level 15 -b 131072 \
    -noappend -quiet -no-progress
veritysetup format "$WORK/usr.squashfs" "$WORK/usr.hash" >"$WORK/verity.txt"

field() { sed -n "s/^$1:[[:space:]]*//p" "$WORK/verity.txt"; }
# The initramfs needs no veritysetup, only these numbers; the root hash is on the kernel command line.
printf 'blocks=%s\nsalt=%s\n' "$(field 'Data blocks')" "$(field Salt)" >"$WORK/verity.env"
field 'Root hash' >"$WORK/usrhash"
