#!/bin/sh
# Makes a fresh Debian 12 or Ubuntu machine ready: the missing packages, then setup.py.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    printf 'bootstrap: %s\n' "$@" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

command -v dpkg-query >/dev/null ||
    fail "dpkg-query is missing: this script is for Debian and Ubuntu." \
        "Install by hand what $here/debian-packages.txt lists, then run: python3 $here/setup.py"

# One question for all packages. "installed": one that left its settings behind is not there.
missing=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' | awk '
    NR == FNR { if ($2 == "installed") have[$1]; next }
    { sub(/#.*/, "") }
    NF && !($1 in have) && !seen[$1]++ { printf " %s", $1 }
' - "$here/debian-packages.txt")

if [ -n "$missing" ]; then
    [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null ||
        fail "packages are missing and neither root nor sudo without a password is at hand." \
            "Run as root: apt-get install --no-install-recommends$missing"
    echo "packages: installing$missing"
    as_root apt-get -qq update || fail "apt-get update failed." \
        "Make the package mirrors in /etc/apt/sources.list* reachable, then run this again."
    # shellcheck disable=SC2086 # a list of names
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends $missing ||
        fail "apt-get install failed, its last lines above say on what." \
            "Mend that (often: dpkg --configure -a, or free disk space), then run this again."
fi

exec python3 "$here/setup.py" "$@"
