# Sourced by every step. The build gives RECIPE (this recipe), WORK (scratch) and OUT (the result).
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
: "${RECIPE:?}" "${WORK:?}" "${OUT:?}"
ROOTFS=$WORK/rootfs

fail() { echo "$*" >&2; exit 1; }

# The entries of one of the recipe's lists: no comments, no empty lines.
list() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$RECIPE/$1"; }
