#!/bin/sh
# The gate of user layer1-apply: sshd runs this instead of what was asked for (layer1/pi/remote.py asks).
# As that user it hands the request to itself as root, by one line in sudoers; root's part checks it.
#   applied        says what is applied and whether an apply runs, one name=value a line
#   apply SHA256   takes a tar on standard input, checks it, and starts its apply.sh apart from this connection
#   reboot         reboots a board whose bundle needs that
# Exit codes: 64 refused, 65 the tar is not the announced one, 75 an apply runs already.
set -eu
umask 077

self=/usr/local/lib/layer1/receive.sh
state=/var/lib/layer1
# On the disk, for /run may be mounted noexec. Root's only, and gone when apply.sh ends.
incoming=$state/incoming
# Made by apply.sh, gone with the next boot.
reboot_required=$state/reboot-required
# How the last apply since boot ended.
outcome=/run/layer1-apply
# Whoever changes the board holds this, the first boot too.
lock=/run/layer1-apply.lock
unit=layer1-apply.service
limit_bytes=1048576
upload_s=60

fail() {
    code=$1
    shift
    echo "$*" >&2
    exit "$code"
}

content() { cat "$1" 2>/dev/null || true; }

running() { systemctl --quiet is-active "$unit" || ! flock --nonblock "$lock" true; }

# Held until this process ends; only then does the unit get it.
take_lock() {
    exec 9>>"$lock"
    flock --nonblock 9 || fail 75 "an apply runs already"
    ! systemctl --quiet is-active "$unit" || fail 75 "an apply runs already"
}

applied() {
    echo "schema=1"
    if running; then echo "apply=running"; else echo "apply=idle"; fi
    echo "boot_id=$(content /proc/sys/kernel/random/boot_id)"
    echo "applied=$(content "$state/applied")"
    if [ -e "$reboot_required" ]; then echo "reboot_required=yes"; else echo "reboot_required=no"; fi
    if [ -e "$outcome/result" ]; then
        echo "result=$(content "$outcome/result")"
        tail -n 200 "$outcome/log" | cut -c 1-300 | sed 's/^/log=/'
    fi
}

# Nothing is unpacked before all of it is there and is what was announced.
receive() {
    rm -rf "$incoming"
    mkdir -p "$incoming/bundle"
    timeout "$upload_s" head -c "$((limit_bytes + 1))" >"$incoming/bundle.tar" ||
        fail 65 "the bundle did not arrive within $upload_s s"
    [ "$(stat -c %s "$incoming/bundle.tar")" -le "$limit_bytes" ] ||
        fail 64 "refused: the bundle is larger than $limit_bytes bytes"
    [ "$(sha256sum <"$incoming/bundle.tar")" = "$1  -" ] || fail 65 "the bundle did not arrive whole"
}

# From standard input tar takes no compressed archive, which would grow.
unpack() {
    export LC_ALL=C
    tar --list --verbose --file=- <"$incoming/bundle.tar" >"$incoming/entries" ||
        fail 64 "refused: the bundle is no tar"
    ! grep -q '^[^d-]' "$incoming/entries" || fail 64 "refused: the bundle holds more than files and folders"
    tar --list --file=- <"$incoming/bundle.tar" >"$incoming/names"
    ! grep -q -E '[^A-Za-z0-9._/@-]|^/|^-|(^|/)\.\.(/|$)' "$incoming/names" ||
        fail 64 "refused: the bundle has a name that is not a plain path within it"
    tar --extract --no-same-owner --no-same-permissions --directory="$incoming/bundle" --file=- \
        <"$incoming/bundle.tar"
    rm "$incoming/bundle.tar" "$incoming/entries" "$incoming/names"
    [ -f "$incoming/bundle/apply.sh" ] || fail 64 "refused: the bundle has no apply.sh"
    chmod 0700 "$incoming/bundle/apply.sh"
}

start() {
    rm -rf "$outcome"
    mkdir "$outcome"
    # shellcheck disable=SC2016 # the inner shell's arguments
    systemd-run --quiet --collect --unit="$unit" --property=Type=exec flock "$lock" /bin/sh -c '
        code=0
        "$2/bundle/apply.sh" "$2/bundle" >"$3/log" 2>&1 </dev/null || code=$?
        rm -rf "$2"
        echo "$1 $code" >"$3/result"
    ' apply "$1" "$incoming" "$outcome"
}

apply() {
    case $1 in *[!0-9a-f]*) refuse ;; esac
    [ "${#1}" -eq 64 ] || refuse
    take_lock
    trap 'rm -rf "$incoming"' EXIT
    trap 'exit 65' HUP PIPE TERM # what a cut connection does to this process
    receive "$1"
    unpack
    start "$1"
    trap - EXIT HUP PIPE TERM
}

reboot() {
    take_lock
    [ -e "$reboot_required" ] || fail 64 "refused: nothing here needs a reboot"
    systemctl reboot
}

refuse() { fail 64 "refused: this key may only say applied, apply SHA256 or reboot"; }

main() {
    if [ "$(id -u)" -ne 0 ]; then
        exec sudo -n "$self" "${SSH_ORIGINAL_COMMAND-}"
    fi
    [ $# -eq 1 ] || refuse
    case $1 in
    applied) applied ;;
    "apply "*) apply "${1#apply }" ;;
    reboot) reboot ;;
    *) refuse ;;
    esac
}

# One line that the shell has read whole: the script it runs may replace this file meanwhile.
main "$@"; exit
