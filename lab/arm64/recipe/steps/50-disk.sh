#!/bin/bash
# The card: MBR, the FAT32 boot partition that a Pi's firmware reads, and the ext4 root.
. "$RECIPE/steps/common.sh"
boot_at=4 # MiB, as on Raspberry Pi's images
boot_mib=128
root_at=$((boot_at + boot_mib))
root_mib=$(($(du -sm "$ROOTFS" | cut -f1) + 256))

boot=$WORK/boot
mkdir -p "$boot"
cp "$KERNEL"/boot/vmlinuz-* "$boot/kernel8.img"
cp "$WORK/initramfs8" "$boot/initramfs8"
printf '%s\n' arm_64bit=1 kernel=kernel8.img auto_initramfs=1 >"$boot/config.txt"
# `serial0` is the firmware's word for a serial line; `quiet` and `init=` are on Raspberry Pi's images too.
echo "console=serial0,115200 console=tty1 root=PARTUUID=$DISK_ID-02 rootfstype=ext4 fsck.repair=yes rootwait" \
    "quiet init=/usr/lib/raspberrypi-sys-mods/firstboot" >"$boot/cmdline.txt"
cp "$RECIPE/guest/etc/rpi-issue" "$boot/issue.txt"
truncate -s "${boot_mib}M" "$WORK/boot.fat"
mkfs.vfat -F 32 -n bootfs "$WORK/boot.fat" >/dev/null
mcopy -s -i "$WORK/boot.fat" "$boot"/* ::/

disk=$OUT/board.img
truncate -s "$((root_at + root_mib))M" "$disk"
sfdisk -q "$disk" <<TABLE
label: dos
label-id: 0x$DISK_ID
start=${boot_at}MiB, size=${boot_mib}MiB, type=c
start=${root_at}MiB, size=${root_mib}MiB, type=83
TABLE
dd if="$WORK/boot.fat" of="$disk" bs=1M seek="$boot_at" conv=notrunc,sparse status=none
mkfs.ext4 -q -F -L rootfs -m 0 -b 4096 -E "offset=$((root_at * 1048576)),root_owner=0:0" \
    -d "$ROOTFS" "$disk" "${root_mib}M"
cp "$ROOTFS/usr/lib/systemd/boot/efi/systemd-bootaa64.efi" "$OUT/bootaa64.efi"
