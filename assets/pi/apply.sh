#!/bin/sh
# Makes a Raspberry Pi OS board what its stack says: access, hardening, and k3s installed but waiting.
#
#   apply.sh FOLDER     FOLDER holds an unpacked bundle (layer1/pi/bundle.py): this script, settings.sh, and
#                       under files/ what it installs, each at its place.
#
# Run as root: at first boot by firstrun.sh, later over SSH by receive.sh, which both hold the lock that keeps
# two runs apart. It may be cut anywhere and run again. It prints one line for each change, so a second run
# prints nothing. /var/lib/layer1/applied is written last: it holds the digest of the bundle that is wholly applied.
# What only a reboot brings is said in /var/lib/layer1/reboot-required, one line each; nothing reboots by itself.
set -eu
umask 022
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

folder=$1
files=$folder/files
state=/var/lib/layer1
# What was changed and is not in force yet. In /run, for after a boot all of it is in force.
pending=/run/layer1/pending
# shellcheck source=assets/pi/settings.sh
. "$folder/settings.sh"

changed() { echo "changed: $*"; }
fail() { echo "failed: $*" >&2; exit 1; }

# --- small tools -------------------------------------------------------------------------------------------

# Is this a running system, whose services can be told? Not at first boot: that ends with a reboot anyway.
live() {
    [ -z "${LAYER1_FIRST_BOOT-}" ] || return 1
    case $(systemctl is-system-running 2>/dev/null || true) in
    running | degraded | starting | maintenance) ;;
    *) return 1 ;;
    esac
}

owes() { mkdir -p "$pending" && : >"$pending/$1"; }
owed() { [ -e "$pending/$1" ]; }
paid() { rm -f "$pending/$1"; }

needs_reboot() {
    grep -qsxF "$1" "$state/reboot-required" || echo "$1" >>"$state/reboot-required"
}

make_dir() { # MODE PATH
    if [ "$(stat -c '%a %u %g' "$2" 2>/dev/null)" != "$1 0 0" ]; then
        install -d -m "$1" -o root -g root "$2"
        changed "$2"
    fi
}

# Installs files/PATH at PATH, whole or not at all. Says whether it changed anything.
put() { # MODE PATH
    if cmp -s "$files$2" "$2" && [ ! -L "$2" ] && [ "$(stat -c '%a %u %g' "$2")" = "$1 0 0" ]; then
        return 1
    fi
    mkdir -p "$(dirname "$2")" || fail "the folder of $2 cannot be made"
    # Callers ask for the answer, and in such a place the shell's -e is off: hence each `fail`.
    install -m "$1" -o root -g root "$files$2" "$2.layer1-new" || fail "$2 cannot be written"
    mv -fT "$2.layer1-new" "$2" || fail "$2 cannot be replaced"
    changed "$2"
}

drop() { # PATH...
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            rm -rf "$path"
            changed "$path is gone"
        fi
    done
}

# As systemd says it; empty for a unit that is not installed.
unit_state() { systemctl is-enabled "$1" 2>/dev/null | grep -vx not-found || true; }

on() { # UNIT...
    for unit in "$@"; do
        case $(unit_state "$unit") in
        enabled | static | alias | indirect | generated) ;;
        *)
            systemctl --quiet enable "$unit" 2>/dev/null || fail "$unit cannot be enabled"
            changed "$unit is enabled"
            ;;
        esac
    done
}

# Masked: neither a dependency nor D-Bus starts it then. What is not installed is left alone.
off() { # UNIT...
    for unit in "$@"; do
        case $(unit_state "$unit") in
        '' | masked) continue ;;
        esac
        if live; then systemctl --quiet stop "$unit"; fi
        systemctl --quiet disable "$unit" 2>/dev/null || true
        systemctl --quiet mask "$unit"
        changed "$unit is off"
    done
}

shadow() { getent shadow "$1" | cut -d: -f"$2"; }

# --- the steps, in the order of main -------------------------------------------------------------------------

folders() {
    make_dir 755 "$state"
    make_dir 755 /etc/layer1
    make_dir 755 /usr/local/lib/layer1
    make_dir 755 /etc/rancher
    make_dir 700 /etc/rancher/k3s # Layer 2 writes config.yaml here; only root may look
    for script in k3s-install.sh packages.sh receive.sh status.sh; do
        put 755 "/usr/local/lib/layer1/$script" || true
    done
    put 644 /etc/tmpfiles.d/layer1.conf || true
}

# `*` is no password that anyone can type, and unlike `!` it is no locked account, which sshd may refuse.
account() { # NAME useradd's options...
    name=$1
    shift
    if ! getent passwd "$name" >/dev/null; then
        useradd --password '*' "$@" "$name"
        changed "user $name"
    fi
    if [ "$(shadow "$name" 2)" != '*' ]; then
        usermod --password '*' "$name"
        changed "user $name has no password"
    fi
}

accounts() {
    uid=$(id -u "$OPERATOR" 2>/dev/null || echo 1000)
    [ "$uid" -ge 1000 ] || fail "the operator's login $OPERATOR is a system account of the image; choose another"
    if [ "$(id -gn "$OPERATOR" 2>/dev/null)" != "$OPERATOR" ] && getent group "$OPERATOR" >/dev/null; then
        fail "the operator's login $OPERATOR is the name of a group of the image; choose another"
    fi
    account "$OPERATOR" --create-home --shell /bin/bash
    account layer1-status --system --no-create-home --home-dir / --shell /bin/sh
    account layer1-apply --system --no-create-home --home-dir / --shell /bin/sh
    # For the log of the k3s installer, which the status script shows.
    if ! id -nG layer1-status | grep -qw systemd-journal; then
        usermod --append --groups systemd-journal layer1-status
        changed "user layer1-status reads the journal"
    fi
    visudo --quiet --check --strict --owner --perms --file="$(sudoers_copy)" || fail "the sudoers file is not valid"
    put 440 /etc/sudoers.d/layer1 || true
}

# visudo also judges owner and mode, which a bundle's files do not carry.
sudoers_copy() {
    install -d -m 700 /run/layer1
    install -m 440 -o root -g root "$files/etc/sudoers.d/layer1" /run/layer1/sudoers
    echo /run/layer1/sudoers
}

# The image's own login. It has no password at first, but Raspberry Pi's first-boot dialogue would give it one;
# here nobody is to log in by a name that every attacker knows.
pi_field() { getent passwd pi | cut -d: -f"$1"; }

default_user() {
    if getent passwd pi >/dev/null; then
        if [ "$(shadow pi 2),$(shadow pi 8),$(pi_field 7),$(id -nG pi)" != "*,1,/usr/sbin/nologin,$(id -ng pi)" ]; then
            usermod --password '*' --expiredate 1970-01-02 --shell /usr/sbin/nologin --groups '' pi
            changed "user pi cannot log in"
        fi
        drop "$(pi_field 6)/.ssh/authorized_keys"
    fi
    drop /etc/sudoers.d/010_pi-nopasswd /etc/sudoers.d/90-cloud-init-users
    # The dialogue itself, its SSH banner, and logins at the console without a question.
    off userconfig.service
    drop /etc/ssh/sshd_config.d/rename_user.conf \
        /etc/systemd/system/getty@tty1.service.d/autologin.conf \
        /etc/systemd/system/serial-getty@.service.d/autologin.conf
}

ssh_access() {
    # Both would make host keys anew, or open SSH for whoever holds the card. The stack's key has a name of its
    # own (layer1_host_...), for the first one deletes every ssh_host_* file.
    off regenerate_ssh_host_keys.service sshswitch.service
    put 600 /etc/ssh/layer1_host_ed25519_key && owes ssh
    put 644 /etc/ssh/layer1_host_ed25519_key.pub || true
    for key in "$files"/etc/ssh/layer1-keys/*; do
        put 644 "/etc/ssh/layer1-keys/${key##*/}" || true
    done
    for key in /etc/ssh/layer1-keys/*; do
        [ -e "$files$key" ] || drop "$key"
    done
    install -d -m 755 /run/sshd # sshd -t wants it, and before ssh.service's first start nobody made it
    dropin=/etc/ssh/sshd_config.d/00-layer1.conf
    saved=/run/layer1/sshd-before
    rm -f "$saved"
    [ ! -e "$dropin" ] || cp -p "$dropin" "$saved"
    if put 600 "$dropin"; then
        owes ssh
        if ! /usr/sbin/sshd -t; then
            if [ -e "$saved" ]; then mv -fT "$saved" "$dropin"; else rm -f "$dropin"; fi
            fail "sshd does not take its new configuration; the one before is back"
        fi
    fi
    on ssh.service
    if owed ssh && live; then systemctl reload-or-restart ssh.service; fi
    paid ssh
}

firewall() {
    # Debian's own unit would flush every table when it is stopped.
    off nftables.service
    put 644 /etc/systemd/system/layer1-firewall.service && owes units
    nft --check --file "$files/etc/layer1/firewall.nft" || fail "nft does not take the firewall's rules"
    put 644 /etc/layer1/firewall.nft && owes firewall
    reload_units
    on layer1-firewall.service
    if owed firewall && live; then systemctl reload-or-restart layer1-firewall.service; fi
    paid firewall
}

reload_units() {
    if owed units && live; then systemctl daemon-reload; fi
    paid units
}

host_name() {
    if [ "$(cat /etc/hostname 2>/dev/null)" != "$HOSTNAME_WANTED" ]; then
        echo "$HOSTNAME_WANTED" >/etc/hostname
        changed /etc/hostname
        if live; then hostname "$HOSTNAME_WANTED"; fi
    fi
    if ! grep -qsxF "127.0.1.1 $HOSTNAME_WANTED" /etc/hosts || [ "$(grep -c '^127\.0\.1\.1' /etc/hosts)" != 1 ]; then
        { grep -sv '^127\.0\.1\.1' /etc/hosts || true; echo "127.0.1.1 $HOSTNAME_WANTED"; } >/etc/hosts.layer1-new
        mv -fT /etc/hosts.layer1-new /etc/hosts
        changed /etc/hosts
    fi
}

# Never changed under a running connection, which may be the one that brought this bundle.
network() {
    if [ -x /usr/sbin/NetworkManager ]; then
        put 600 /etc/NetworkManager/system-connections/layer1.nmconnection && needs_reboot "the network's settings"
        drop /etc/netplan/50-cloud-init.yaml # one owner of the address
        on NetworkManager.service
    else
        put 644 /etc/systemd/network/10-layer1.network && needs_reboot "the network's settings"
        on systemd-networkd.service
        # A link belongs to a resolver of the image; ours is for an image that has none.
        [ -L /etc/resolv.conf ] || put 644 /etc/resolv.conf || true
    fi
    return 0
}

kernel() {
    put 644 /etc/sysctl.d/90-layer1.conf && owes sysctl
    if owed sysctl && live; then sysctl --quiet --load=/etc/sysctl.d/90-layer1.conf; fi
    paid sysctl
    # The kernel's half of AppArmor, and the memory cgroup, are words in cmdline.txt.
    [ -z "$(unit_state apparmor.service)" ] || on apparmor.service
    # A Pi has no clock that runs without power.
    [ -z "$(unit_state systemd-timesyncd.service)" ] || on systemd-timesyncd.service
}

journal() {
    put 644 /etc/systemd/journald.conf.d/90-layer1.conf && owes journal
    if owed journal && live; then systemctl restart systemd-journald.service; fi
    paid journal
    drop /var/log/journal
}

no_swap() {
    off dphys-swapfile.service # Bookworm
    if [ -d /etc/rpi ] || [ -e /usr/lib/systemd/system-generators/rpi-swap-generator ]; then # Trixie
        put 644 /etc/rpi/swap.conf.d/90-layer1.conf && needs_reboot "swap is off"
    fi
    if live && [ "$(wc -l </proc/swaps)" -gt 1 ]; then
        swapoff --all
        changed "swap is off"
    fi
    drop /var/swap
}

services() {
    off bluetooth.service hciuart.service avahi-daemon.socket avahi-daemon.service triggerhappy.socket \
        triggerhappy.service ModemManager.service rpcbind.socket rpcbind.service nfs-common.service
    off wpa_supplicant.service # the board is wired: its address is the cable's
    # Raspberry Pi Connect runs for users, not for the system.
    if [ -e /usr/lib/systemd/user/rpi-connect.service ] && [ ! -L /etc/systemd/user/rpi-connect.service ]; then
        systemctl --global --quiet mask rpi-connect.service
        changed "rpi-connect.service is off"
    fi
}

# Not installed here: there may be no network yet, and at first boot there is none.
updates() {
    put 644 /etc/apt/apt.conf.d/52layer1-upgrades || true
    put 644 /etc/systemd/system/layer1-packages.service && owes units
    put 644 /etc/systemd/system/layer1-packages.timer && owes units
    reload_units
    on layer1-packages.timer
    if live && ! systemctl --quiet is-active layer1-packages.timer; then
        systemctl start layer1-packages.timer
    fi
}

k3s() {
    put 644 /etc/systemd/system/k3s-install.service && owes units
    put 644 /etc/systemd/system/k3s-config.path && owes units
    put 644 /etc/systemd/system/k3s.service.d/10-layer1.conf && owes units
    put 644 /etc/layer1/k3s-install.env || true
    reload_units
    # Another version: the installer runs again. A k3s that runs goes on with the old one until the reboot.
    if [ -e "$state/k3s-installed" ] && [ "$(cat "$state/k3s-installed")" != "$K3S_VERSION" ]; then
        ! live || systemctl stop k3s-install.service
        needs_reboot "k3s $K3S_VERSION"
        drop "$state/k3s-installed"
    fi
    # k3s.service and k3s-config.path are enabled by the installer's step, as on Flatcar.
    on k3s-install.service
    if live && [ ! -e "$state/k3s-installed" ]; then systemctl start --no-block k3s-install.service; fi
}

# The image's first-boot mechanism has done its work; a changed card must not start it again.
cloud_init_off() {
    if [ -d /etc/cloud ] && [ ! -e /etc/cloud/cloud-init.disabled ]; then
        : >/etc/cloud/cloud-init.disabled
        changed "cloud-init is off"
    fi
}

# The SHA-256 of the bundle's archive, made again from the folder: what was really applied, not what was said.
bundle_digest() {
    (cd "$folder" && find . -type f -printf '%P\n' | sort |
        tar --create --format=ustar --owner=root:0 --group=root:0 --numeric-owner --mtime=@0 --mode=0600 \
            --no-recursion --files-from=-) | sha256sum | cut -d' ' -f1
}

main() {
    [ "$(id -u)" -eq 0 ] || fail "only root can apply a bundle"
    digest=$(bundle_digest)
    # A bundle that is half applied is not the one before any more either.
    if [ "$(cat "$state/applied" 2>/dev/null)" != "$digest" ]; then rm -f "$state/applied"; fi
    folders
    accounts
    ssh_access
    firewall
    host_name
    network
    kernel
    journal
    no_swap
    services
    updates
    k3s
    default_user
    cloud_init_off
    if [ ! -e "$state/applied" ]; then
        sync # all of the above reaches the card before the mark does
        echo "$digest" >"$state/applied.new"
        mv -fT "$state/applied.new" "$state/applied"
        sync
        changed "applied $digest"
    fi
}

# One line that the shell has read whole: the file may go away meanwhile.
main; exit
