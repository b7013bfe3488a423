#!/bin/sh
# Boots the board of the tests: systemd and all it starts, in namespaces of their own, on an overlay of a
# Debian tree. A stand-in for the board's kernel and firmware; when it ends, the board is off.
# boot-board.sh TREE DISK BOOT_ID: TREE is only read, DISK keeps what the board writes over its boots.
set -eu
tree=$1 disk=$2 boot_id=$3

if [ "$$" -ne 1 ]; then
    # systemd wants the root of a cgroup tree that is its own.
    mount --make-rprivate /
    mount -t cgroup2 none "$disk/cgroup"
    mkdir -p "$disk/cgroup/$(basename "$disk")"
    echo "$$" >"$disk/cgroup/$(basename "$disk")/cgroup.procs"
    exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child "$0" "$@"
fi

mount -t overlay overlay -o "lowerdir=$tree,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
cd "$disk/root"
mount -t proc proc proc
mount --bind "$boot_id" proc/sys/kernel/random/boot_id
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 none dev
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o noexec,nosuid,nodev none run # as Debian mounts it
mkdir run/old
pivot_root . run/old
umount -l /run/old
exec env -i container=layer1 /lib/systemd/systemd
