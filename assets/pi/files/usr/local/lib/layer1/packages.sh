#!/bin/sh
# Installs what the hardening needs and the image may lack; does nothing when all is there.
set -eu
wanted="unattended-upgrades apparmor"
missing=$(for name in $wanted; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || echo "$name"
done)
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet
    # shellcheck disable=SC2086 # a list of plain names
    apt-get install --quiet --yes --no-install-recommends $missing
fi
