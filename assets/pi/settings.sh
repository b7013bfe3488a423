# shellcheck shell=sh disable=SC2034 # read by apply.sh
HOSTNAME_WANTED=@HOSTNAME@
OPERATOR=@USER@
K3S_VERSION=@K3S_VERSION@
