#!/bin/bash
# The disk: GPT, an EFI system partition that both SeaBIOS and OVMF boot from, /usr, its hashes, ROOT.
. "$RECIPE/steps/common.sh"
release=$(kernel_release)
root_mib=256

# --- the EFI system partition
arguments="$(list kernel-arguments.txt | paste -sd' ') verity.usrhash=$(cat "$WORK/usrhash")"
mkdir -p "$ESP/EFI/BOOT" "$ESP/loader/entries"
cp "$WORK/initrd.img" "$ESP/initrd.img"
cp "$KERNEL/boot/vmlinuz-$release" "$ESP/vmlinuz"
cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi "$ESP/EFI/BOOT/BOOTX64.EFI"
cp /usr/lib/syslinux/modules/bios/ldlinux.c32 "$ESP/"
printf 'timeout 0\ndefault practice\n' >"$ESP/loader/loader.conf"
printf 'title practice\nlinux /vmlinuz\ninitrd /initrd.img\noptions %s\n' "$arguments" \
    >"$ESP/loader/entries/practice.conf"
printf 'DEFAULT practice\nPROMPT 0\nTIMEOUT 1\nLABEL practice\n LINUX /vmlinuz\n INITRD /initrd.img\n APPEND %s\n' \
    "$arguments" >"$ESP/syslinux.cfg"
truncate -s "$(($(du -sm "$ESP" | cut -f1) + 6))M" "$WORK/esp.img"
mkfs.vfat -F 16 -n EFI-SYSTEM "$WORK/esp.img" >/dev/null
mcopy -s -i "$WORK/esp.img" "$ESP"/* ::/

# --- ROOT: only what has to be there before systemd-tmpfiles runs
root=$WORK/root
mkdir -p "$root"/{etc,.etc-work,usr,dev,proc,sys,run,boot,mnt,media,srv,opt,home,var/lib,var/log/journal}
install -d -m 0700 "$root/root"
install -d -m 1777 "$root/tmp" "$root/var/tmp"
install -d -m 0750 -o 500 -g 500 "$root/home/core"
for link in bin sbin lib lib64; do ln -s "usr/$link" "$root/$link"; done

# --- put together, all in whole MiB
mib() { echo $((($(stat -c %s "$1") + 1048575) / 1048576)); }
esp_at=1
usr_at=$((esp_at + $(mib "$WORK/esp.img")))
hash_at=$((usr_at + $(mib "$WORK/usr.squashfs")))
root_at=$((hash_at + $(mib "$WORK/usr.hash")))
disk=$WORK/disk.raw
truncate -s "$((root_at + root_mib + 1))M" "$disk"
linux=0FC63DAF-8483-4772-8E79-3D69D8477DE4
sfdisk -q "$disk" <<TABLE
label: gpt
start=${esp_at}MiB, size=$((usr_at - esp_at))MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=EFI-SYSTEM, attrs=LegacyBIOSBootable
start=${usr_at}MiB, size=$((hash_at - usr_at))MiB, type=$linux, name=USR-A
start=${hash_at}MiB, size=$((root_at - hash_at))MiB, type=$linux, name=USR-A-HASH
start=${root_at}MiB, size=${root_mib}MiB, type=$linux, name=ROOT
TABLE
place() { dd if="$1" of="$disk" bs=1M seek="$2" conv=notrunc,sparse status=none; }
place "$WORK/esp.img" "$esp_at"
# syslinux writes the partition's offset into its boot sector: so on the disk, not on the partition's file
syslinux --install --offset $((esp_at * 1048576)) "$disk"
dd if=/usr/lib/syslinux/mbr/gptmbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
place "$WORK/usr.squashfs" "$usr_at"
place "$WORK/usr.hash" "$hash_at"
# 4 KiB blocks although it is small: growing it to a real disk would take long with 1 KiB
mkfs.ext4 -q -F -L ROOT -m 0 -b 4096 -E "offset=$((root_at * 1048576)),root_owner=0:0" \
    -d "$root" "$disk" "${root_mib}M"
qemu-img convert -c -O qcow2 -o compression_type=zstd "$disk" "$OUT/guest.qcow2"
