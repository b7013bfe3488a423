#!/bin/bash
# A small initramfs: busybox, dmsetup and modules. All else runs from the verified /usr.
. "$RECIPE/steps/common.sh"
release=$(kernel_release)

mkdir -p "$INITRAMFS"/{bin,dev,etc,proc,run,sys,sysroot,tmp,usr/bin,usr/sbin,usr/lib,usr/lib64}
ln -s usr/sbin "$INITRAMFS/sbin"
ln -s usr/lib "$INITRAMFS/lib"
ln -s usr/lib64 "$INITRAMFS/lib64"
: >"$INITRAMFS/etc/initrd-release"
printf 'root:x:0:0::/root:/bin/sh\n' >"$INITRAMFS/etc/passwd"
printf 'root:x:0:\n' >"$INITRAMFS/etc/group"

# busybox lives in /bin, which the real /usr does not cover
cp "$ROOTFS/usr/bin/busybox" "$INITRAMFS/bin/busybox"
for applet in $("$ROOTFS/usr/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$INITRAMFS/bin/$applet"
done

cp "$ROOTFS/usr/sbin/dmsetup" "$INITRAMFS/usr/sbin/"
for library in $(chroot "$ROOTFS" ldd /usr/sbin/dmsetup | grep -o '/[^ ]*'); do
    # through the merged /usr: /lib/x is /usr/lib/x
    target=$INITRAMFS/usr/${library#/}
    mkdir -p "$(dirname "${target/\/usr\/usr\//\/usr\/}")"
    cp -L "$ROOTFS/$library" "${target/\/usr\/usr\//\/usr\/}"
done

modules=$INITRAMFS/usr/lib/modules/$release
mkdir -p "$modules"
cp "$ROOTFS/usr/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$modules/"
list modules.txt | sed -n 's/^early //p' >"$INITRAMFS/etc/early-modules"
for name in $(cat "$INITRAMFS/etc/early-modules"); do
    for file in $(modprobe -d "$ROOTFS" -S "$release" -D -q "$name" | awk '/^insmod/ { print $2 }'); do
        install -D -m 0644 "$file" "$modules/${file#*/"$release"/}"
    done
done
depmod -b "$INITRAMFS" "$release"

install -m 0755 "$RECIPE/initramfs/init" "$INITRAMFS/init"
install -m 0755 "$RECIPE/initramfs/udhcpc-script" "$INITRAMFS/bin/udhcpc-script"
cp "$RECIPE/initramfs/keep-log.sed" "$INITRAMFS/etc/"
cp "$WORK/verity.env" "$INITRAMFS/etc/"

(cd "$INITRAMFS" && find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc --quiet --owner=0:0) |
    zstd -q -19 -T0 >"$WORK/initrd.img"
