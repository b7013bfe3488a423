#!/bin/bash
# The Debian tree and, unpacked beside it, the kernel package.
# Installing the kernel would drag in Debian's own initramfs tools.
. "$RECIPE/steps/common.sh"

include=$(list packages.txt | paste -sd,)
excludes=()
for folder in doc man locale info i18n lintian bug; do
    excludes+=(--dpkgopt="path-exclude=/usr/share/$folder/*")
done
mkdir -p "$KERNEL"

# The hook asks apt with the new tree's configuration: the kernel is of the guest's release.
mmdebstrap --mode=root --variant=minbase --format=directory \
    --include="$include" --aptopt='APT::Install-Recommends "false"' "${excludes[@]}" \
    --customize-hook='
        set -e
        export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
        kernel=$(apt-cache depends linux-image-amd64 | sed -n "s/^ *Depends: //p" | head -n 1)
        cd "$WORK" && apt-get -qq -o APT::Sandbox::User=root download "$kernel"
        mv linux-image-*.deb kernel.deb' \
    bookworm "$ROOTFS" "$APT_SOURCES" \
    || fail "mmdebstrap could not make the Debian tree; the lines above say why"

dpkg-deb -x "$WORK/kernel.deb" "$KERNEL"
