#!/bin/sh
# What the user layer1-status may see over SSH, one name=value a line: states, never a configuration.
# Few programs: an emulated node takes a tenth of a second to start one, and this is asked often.
line() { read -r text <"$1" && echo "$2$text"; }
. /etc/os-release
echo "schema=1"
line /proc/sys/kernel/hostname hostname=
echo "os=$ID"
echo "os_version=$VERSION_ID"
line /proc/sys/kernel/random/boot_id boot_id=
# The lowest of several mounts is the system itself; Flatcar's extensions lie over it.
usr=
while read -r device where kind options _; do
    [ "$where" = /usr ] || continue
    usr=${usr:-$device}
    echo "usr_fs=$kind"
    echo "usr_mode=${options%%,*}"
    echo "usr_mount=$kind $device"
done </proc/mounts
echo "usr_device=$usr"
autologin=no root_hash=
read -r words </proc/cmdline
for word in $words; do
    case $word in
    flatcar.autologin | flatcar.autologin=*) autologin=yes ;;
    verity.usrhash=*) root_hash=${word#*=} ;;
    esac
done
echo "autologin=$autologin"
set -- usr-local-bin.mount k3s-install.service k3s-config.path k3s.service
[ -e /etc/systemd/system/layer1-firewall.service ] && set -- "$@" layer1-firewall.service
# One call for all units: a small machine takes a while for each. A unit ends with an empty line.
systemctl show "$@" --property=Id,ActiveState,SubState,Result,ExecStart,UnitFileState 2>/dev/null | awk '
    function told() {
        if (id == "") return
        print "unit." id "=" is["ActiveState"] "/" is["SubState"] "/" is["Result"]
        if (id == "k3s.service") {
            command = is["ExecStart"]
            sub(/.*argv\[\]=/, "", command)
            sub(/ ; ignore_errors.*/, "", command)
            print "k3s_exec=" command
            print "k3s_enabled=" is["UnitFileState"]
        }
        id = ""
        split("", is)
    }
    $0 == "" { told(); next }
    { name = $0; sub(/=.*/, "", name); value = $0; sub(/^[^=]*=/, "", value) }
    name == "Id" { id = value; next }
    { is[name] = value }
    END { told() }'
echo "system=$(systemctl is-system-running 2>/dev/null)"
systemctl list-units --failed --no-legend --plain 2>/dev/null | awk '{ print "failed=" $1 }'
if [ -e /var/lib/layer1/k3s-installed ]; then
    line /var/lib/layer1/k3s-installed k3s_installed=
else
    journalctl --unit=k3s-install.service --lines=12 --output=cat --no-pager 2>/dev/null | sed 's/^/install_log=/'
fi

# What the audit wants besides; the wait for a new node does not.
[ "${SSH_ORIGINAL_COMMAND-}" = audit ] || exit 0
# This user may write nothing below /usr anyway, but a file system that is read-only says that first.
refused=$( (: >/usr/.layer1-write) 2>&1)
echo "usr_write=${refused##*: }"
# Its target, its length, and V for verified or C for corrupted.
sudo -n /usr/sbin/dmsetup status --target verity 2>/dev/null | while read -r text; do echo "verity=$text"; done
echo "usr_is=$(readlink -f "$usr")"
for block in /sys/block/dm-*; do
    [ -e "$block/dm/name" ] && read -r name <"$block/dm/name" && read -r ro <"$block/ro" &&
        echo "mapped=$name /dev/${block##*/} ro=$ro"
done
echo "usr_hash=$root_hash"
sudo -n /usr/sbin/sshd -T 2>/dev/null | while read -r name value; do
    case $name in
    passwordauthentication | kbdinteractiveauthentication | permitemptypasswords | permitrootlogin | \
        authenticationmethods | allowusers | allowagentforwarding | x11forwarding)
        echo "sshd=$name $value"
        ;;
    esac
done
exit 0
