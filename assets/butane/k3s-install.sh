#!/bin/sh
# Fetches the official k3s installer, checks it against the pinned digest, runs it once, and arms k3s.
# Its settings come from /etc/layer1/k3s-install.env; the marker is written last, so a cut run starts over.
set -eu
umask 022
installer=$(mktemp /var/lib/layer1/install-k3s.XXXXXX)
trap 'rm -f "$installer"' EXIT

curl --fail --silent --show-error --location --retry 10 --retry-connrefused --retry-delay 3 \
    --connect-timeout 10 --max-time 300 --output "$installer" "$LAYER1_INSTALLER_URL"
found=$(sha512sum "$installer" | cut -d' ' -f1)
if [ "$found" != "$LAYER1_INSTALLER_SHA512" ]; then
    echo "the k3s installer is not the pinned one: expected sha512 $LAYER1_INSTALLER_SHA512, found $found" >&2
    exit 1
fi
sh "$installer"
"$INSTALL_K3S_BIN_DIR/k3s" --version

systemctl daemon-reload
systemctl enable k3s.service k3s-config.path
printf '%s\n' "$INSTALL_K3S_VERSION" >/var/lib/layer1/k3s-installed
# Not waited for: k3s.service is ordered after this very unit.
systemctl start --no-block k3s-config.path k3s.service
