#!/bin/sh
# What the user layer1-status may see over SSH, one name=value a line: states, never a configuration.
unit() { systemctl show "$1" --property="$2" --value 2>/dev/null; }
. /etc/os-release
echo "schema=1"
echo "hostname=$(cat /proc/sys/kernel/hostname)"
echo "os=$ID"
echo "os_version=$VERSION_ID"
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
awk '$2 == "/usr" { split($4, option, ","); print "usr_fs=" $3 "\nusr_mode=" option[1] }' /proc/mounts
echo "usr_device=$(awk '$2 == "/usr" { print $1; exit }' /proc/mounts)"
grep -qw flatcar.autologin /proc/cmdline && echo "autologin=yes" || echo "autologin=no"
for name in usr-local-bin.mount k3s-install.service k3s-config.path k3s.service; do
    echo "unit.$name=$(unit "$name" ActiveState)/$(unit "$name" SubState)/$(unit "$name" Result)"
done
echo "k3s_exec=$(unit k3s.service ExecStart | sed -n 's/.*argv\[\]=\(.*\) ; ignore_errors.*/\1/p')"
echo "k3s_enabled=$(systemctl is-enabled k3s.service 2>/dev/null)"
echo "system=$(systemctl is-system-running 2>/dev/null)"
systemctl list-units --failed --no-legend --plain 2>/dev/null | awk '{ print "failed=" $1 }'
if [ -e /var/lib/layer1/k3s-installed ]; then
    echo "k3s_installed=$(cat /var/lib/layer1/k3s-installed)"
else
    journalctl --unit=k3s-install.service --lines=12 --output=cat --no-pager 2>/dev/null | sed 's/^/install_log=/'
fi
