#!/bin/sh
# What the user layer1-status may see over SSH, one name=value a line: states, never a configuration.
. /etc/os-release
echo "schema=1"
echo "hostname=$(cat /proc/sys/kernel/hostname)"
echo "os=$ID"
echo "os_version=$VERSION_ID"
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
awk '$2 == "/usr" { split($4, option, ","); print "usr_fs=" $3 "\nusr_mode=" option[1] }' /proc/mounts
echo "usr_device=$(awk '$2 == "/usr" { print $1; exit }' /proc/mounts)"
grep -qw flatcar.autologin /proc/cmdline && echo "autologin=yes" || echo "autologin=no"
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
    echo "k3s_installed=$(cat /var/lib/layer1/k3s-installed)"
else
    journalctl --unit=k3s-install.service --lines=12 --output=cat --no-pager 2>/dev/null | sed 's/^/install_log=/'
fi

# What the audit wants besides; the wait for a new node does not.
[ "${SSH_ORIGINAL_COMMAND-}" = audit ] || exit 0
# This user may write nothing below /usr anyway, but a file system that is read-only says that first.
echo "usr_write=$( (: >/usr/.layer1-write) 2>&1 | sed 's/.*: //')"
# Its target, its length, and V for verified or C for corrupted.
sudo -n /usr/sbin/dmsetup status --target verity 2>/dev/null | sed 's/^/verity=/'
usr=$(awk '$2 == "/usr" { print $1; exit }' /proc/mounts)
echo "usr_is=$(readlink -f "$usr")"
for name in /sys/block/dm-*/dm/name; do
    [ -e "$name" ] && echo "mapped=$(cat "$name") /dev/$(basename "${name%/dm/name}") ro=$(cat "${name%/dm/name}/ro")"
done
echo "usr_hash=$(sed -n 's/.*verity\.usrhash=\([0-9a-f]*\).*/\1/p' /proc/cmdline)"
settings='passwordauthentication|kbdinteractiveauthentication|permitemptypasswords|permitrootlogin|authenticationmethods'
settings="$settings|allowusers|allowagentforwarding|x11forwarding"
sudo -n /usr/sbin/sshd -T 2>/dev/null | grep -E "^($settings) " | sed 's/^/sshd=/'
exit 0
