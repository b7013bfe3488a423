#!/bin/sh
# The board's first boot, from the FAT partition: takes the bundle off it, applies it, and removes every trace.
#
# The bundle holds the SSH host key, and a FAT partition knows no owners; before the first boot there is no other
# place that can be written without root. So the bundle moves to root's own file system first, and its place on the
# FAT is overwritten (which a card's wear levelling may undo: treat a card as a key).
#
# Started by systemd (systemd.run= in cmdline.txt) or by cloud-init (runcmd). When it fails, it runs again at the
# next boot: by the same words in cmdline.txt, or by a unit that it makes for itself. Its log stays on the FAT
# partition, where a card reader can read it; it names files, never their content.
set -eu
umask 077
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

digest=@DIGEST@
fat=/boot/firmware
bundle=/var/lib/layer1/firstboot
unit=layer1-firstboot.service

# What systemd.run started ends in a reboot by itself.
by_systemd_run() { grep -q 'systemd\.run=' /proc/cmdline; }

again_at_next_boot() {
    cat >"/etc/systemd/system/$unit" <<UNIT
[Unit]
Description=The first boot of Layer 1, once more
RequiresMountsFor=$fat
ConditionPathExists=$fat/firstrun.sh
[Service]
Type=oneshot
ExecStart=/bin/sh $fat/firstrun.sh
[Install]
WantedBy=multi-user.target
UNIT
    chmod 644 "/etc/systemd/system/$unit"
    systemctl --quiet enable "$unit"
}

take_bundle() {
    install -d -m 755 /var/lib/layer1
    if [ "$(sha256sum <"$fat/layer1.tar" 2>/dev/null)" = "$digest  -" ]; then
        rm -rf "$bundle" "$bundle.new"
        mkdir "$bundle.new"
        tar --extract --no-same-owner --no-same-permissions --directory="$bundle.new" --file="$fat/layer1.tar"
        sync
        mv -T "$bundle.new" "$bundle"
        sync
    fi
    [ -d "$bundle" ] || { echo "layer1.tar is missing or damaged: write the image to the card again"; exit 1; }
    [ ! -e "$fat/layer1.tar" ] || shred --iterations=1 --zero --remove=unlink "$fat/layer1.tar"
}

# The bundle goes last: while anything would start this script again, it must find one.
finish() {
    sed -i -E 's/ ?systemd\.(run|run_success_action|unit)=[^ ]*//g' "$fat/cmdline.txt"
    # cloud-init is off by now, and its network-config would only confuse a reader.
    rm -f "$fat/user-data" "$fat/meta-data" "$fat/network-config"
    sync
    rm -f "$fat/firstrun.sh"
    if [ -e "/etc/systemd/system/$unit" ]; then
        systemctl --quiet disable "$unit"
        rm -f "/etc/systemd/system/$unit"
    fi
    sync
    rm -rf "$bundle"
}

main() {
    exec >>"$fat/layer1-firstboot.log" 2>&1
    echo "first boot of bundle $digest"
    trap '[ $? -eq 0 ] || { echo "FAILED; it runs again at the next boot"; sync; }' EXIT
    by_systemd_run || again_at_next_boot
    take_bundle
    LAYER1_FIRST_BOOT=1 flock /run/layer1-apply.lock /bin/sh "$bundle/apply.sh" "$bundle"
    finish
    echo "done"
    sync
    by_systemd_run || systemctl --no-block reboot
}

# One line that the shell has read whole: the script removes itself.
main; exit
