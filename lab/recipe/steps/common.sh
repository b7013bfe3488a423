# Sourced by every step. The build gives RECIPE (this recipe), WORK (scratch), OUT (the result) and IGNITION.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
: "${RECIPE:?}" "${WORK:?}" "${OUT:?}" "${IGNITION:?}"
ROOTFS=$WORK/rootfs
KERNEL=$WORK/kernel
INITRAMFS=$WORK/initramfs
ESP=$WORK/esp

fail() { echo "$*" >&2; exit 1; }

# The entries of one of the recipe's lists: no comments, no empty lines.
list() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$RECIPE/$1"; }

kernel_release() { (cd "$KERNEL/lib/modules" && ls); }
