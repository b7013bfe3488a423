#!/bin/bash
# Runs a command where arm64 programs run: here, if the machine is set up for them, else in a namespace with
# a binfmt_misc of its own, so that nothing is registered on the machine. Both end with the command.
set -euo pipefail

if arch-test arm64 >/dev/null 2>&1; then
    exec unshare --mount --propagation private "$@"
fi

if [ "${1:-}" = --inside ]; then
    go=$2
    shift 2
    read -r _ <"$go" # until the parent has written the id maps
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register || {
        echo "this kernel has no binfmt_misc for one namespace (Linux 6.7 has): register QEMU for the whole" \
            "machine, on Debian by apt-get install --reinstall qemu-user-static" >&2
        exit 1
    }
    exec "$@"
fi

go=$WORK/go
rm -f "$go"
mkfifo -m 0600 "$go"
ready=$(readlink /proc/self/ns/user)
unshare --user --mount --propagation private bash "$0" --inside "$go" "$@" &
child=$!
until [ "$(readlink "/proc/$child/ns/user")" != "$ready" ]; do sleep 0.05; done
# Every user that is here is there, under the same number: file owners come out right.
awk '{ print $1, $1, $3 }' /proc/self/uid_map >"$WORK/uid_map"
awk '{ print $1, $1, $3 }' /proc/self/gid_map >"$WORK/gid_map"
cat "$WORK/uid_map" >"/proc/$child/uid_map"
cat "$WORK/gid_map" >"/proc/$child/gid_map"
echo >"$go"
wait "$child"
