#!/bin/bash
# The packages, their files laid out as a tree, and the kernel beside it. Nothing of the guest runs yet:
# unpacking foreign packages with this machine's own tools takes a fraction of the time that emulation takes.
. "$RECIPE/steps/common.sh"

include=$(list packages.txt | paste -sd,)
excludes=()
for folder in doc man locale info i18n lintian bug; do
    excludes+=(--dpkgopt="path-exclude=/usr/share/$folder/*")
done
mkdir -p "$PACKAGES" "$KERNEL"
export PACKAGES

# The second hook asks apt with the new tree's configuration: the kernel is of the guest's release.
mmdebstrap --arch=arm64 --mode=root --variant=extract --format=directory \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --include='?essential' --include="$include" --aptopt='APT::Install-Recommends "false"' "${excludes[@]}" \
    --extract-hook='cp "$1"/var/cache/apt/archives/*.deb "$PACKAGES/"' \
    --extract-hook='
        set -e
        export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
        kernel=$(apt-cache depends linux-image-arm64 | sed -n "s/^ *Depends: //p" | head -n 1)
        cd "$WORK" && apt-get -qq -o APT::Sandbox::User=root download "$kernel"
        mv linux-image-*.deb kernel.deb' \
    bookworm "$ROOTFS" "$APT_SOURCES" \
    || fail "mmdebstrap could not make the Debian tree; the lines above say why"

dpkg-deb -x "$WORK/kernel.deb" "$KERNEL"
