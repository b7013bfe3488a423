#!/bin/sh
# A stand-in for the k3s installer (https://get.k3s.io), for practice runs without the official download.
# It is NOT k3s: it installs a script that behaves like the k3s binary as far as systemd can tell. It reads
# the same variables, leaves the same files and refuses in the same places as the real one:
#
#   INSTALL_K3S_VERSION        which release; required here, for there is no channel server to ask
#   INSTALL_K3S_BIN_DIR        default /usr/local/bin, else /opt/bin if that exists and the first is read-only
#   INSTALL_K3S_SYSTEMD_DIR    default /etc/systemd/system
#   INSTALL_K3S_EXEC           command and flags for the unit, before those of the command line
#   INSTALL_K3S_SKIP_DOWNLOAD  true or binary: take the binary that is there
#   INSTALL_K3S_SKIP_ENABLE    true: write the unit, neither enable nor start it
#   INSTALL_K3S_SKIP_START     true: enable it, do not start it
#   INSTALL_K3S_SKIP_SELINUX_RPM, INSTALL_K3S_SELINUX_WARN
#   GITHUB_URL                 where releases are, default https://github.com/k3s-io/k3s/releases
#   K3S_*                      kept in k3s.service.env, as the real one does
set -e
set -o noglob

info() { echo '[INFO] ' "$@"; }
warn() { echo '[WARN] ' "$@" >&2; }
fatal() { echo '[ERROR] ' "$@" >&2; exit 1; }

writable() { [ -d "$1" ] && probe=$(mktemp "$1/.k3s-install.XXXXXX" 2>/dev/null) && rm -f "$probe"; }

setup_env() {
    # A flag where a command could be means: server.
    command_and_flags="${INSTALL_K3S_EXEC:-} $*"
    case ${command_and_flags# } in server* | agent*) ;; *) command_and_flags="server $command_and_flags" ;; esac

    if [ -n "${INSTALL_K3S_BIN_DIR:-}" ]; then
        BIN_DIR=$INSTALL_K3S_BIN_DIR
    else
        BIN_DIR=/usr/local/bin
        if ! writable "$BIN_DIR" && [ -d /opt/bin ]; then BIN_DIR=/opt/bin; fi
    fi
    writable "$BIN_DIR" || fatal "$BIN_DIR is not writable: set INSTALL_K3S_BIN_DIR to a folder that is"

    SYSTEMD_DIR=${INSTALL_K3S_SYSTEMD_DIR:-/etc/systemd/system}
    FILE_SERVICE=$SYSTEMD_DIR/k3s.service
    FILE_ENV=$SYSTEMD_DIR/k3s.service.env
    GITHUB_URL=${GITHUB_URL:-https://github.com/k3s-io/k3s/releases}
    case $(uname -m) in
        x86_64) ARCH=amd64 SUFFIX= ;;
        aarch64) ARCH=arm64 SUFFIX=-arm64 ;;
        *) fatal "no k3s for $(uname -m)" ;;
    esac
}

verify_system() {
    [ "$(id -u)" = 0 ] || fatal 'the installer has to run as root'
    [ -x /bin/systemctl ] || [ -x /usr/bin/systemctl ] || fatal 'Can not find systemd to use as a process supervisor for k3s'
}

setup_selinux() {
    [ "${INSTALL_K3S_SKIP_SELINUX_RPM:-}" != true ] && [ -r /etc/os-release ] || return 0
    # As on Flatcar: no ID_LIKE that the real one has a policy package for.
    [ "${INSTALL_K3S_SELINUX_WARN:-}" = true ] && log=warn || log=fatal
    if ! [ -f /usr/share/selinux/packages/k3s.pp ] && ! grep -q '^ID=\(layer1-practice\|debian\|ubuntu\)$' /etc/os-release; then
        $log "Failed to find the k3s-selinux policy, please install it or set INSTALL_K3S_SKIP_SELINUX_RPM=true"
    fi
}

download_and_verify() {
    case ${INSTALL_K3S_SKIP_DOWNLOAD:-} in
        true | binary)
            [ -x "$BIN_DIR/k3s" ] || fatal "Executable k3s binary not found at $BIN_DIR/k3s"
            info 'Skipping k3s download and verify'
            return 0 ;;
    esac
    [ -n "${INSTALL_K3S_VERSION:-}" ] || fatal 'this stand-in has no channels: set INSTALL_K3S_VERSION'
    release=$(echo "$INSTALL_K3S_VERSION" | sed 's/+/%2B/g')
    folder=$(mktemp -d -t k3s-install.XXXXXX)
    trap 'code=$?; rm -rf "$folder"; exit $code' EXIT INT

    info "Using $INSTALL_K3S_VERSION as release"
    info "Downloading hash $GITHUB_URL/download/$release/sha256sum-$ARCH.txt"
    curl -o "$folder/hash" -sfL "$GITHUB_URL/download/$release/sha256sum-$ARCH.txt" || fatal 'Download failed'
    expected=$(grep " k3s$SUFFIX\$" "$folder/hash" | cut -d' ' -f1)
    if [ -x "$BIN_DIR/k3s" ] && [ "$(sha256sum "$BIN_DIR/k3s" | cut -d' ' -f1)" = "$expected" ]; then
        info 'Skipping binary downloaded, installed k3s matches hash'
        return 0
    fi
    info "Downloading binary $GITHUB_URL/download/$release/k3s$SUFFIX"
    curl -o "$folder/k3s" -sfL "$GITHUB_URL/download/$release/k3s$SUFFIX" || fatal 'Download failed'
    info 'Verifying binary download'
    actual=$(sha256sum "$folder/k3s" | cut -d' ' -f1)
    [ "$expected" = "$actual" ] || fatal "Download sha256 does not match $expected, got $actual"
    chmod 755 "$folder/k3s"
    chown root:root "$folder/k3s"
    mv -f "$folder/k3s" "$BIN_DIR/k3s"
    info "Installing k3s to $BIN_DIR/k3s"
}

create_links() {
    for name in kubectl crictl ctr; do
        if [ -e "$BIN_DIR/$name" ]; then
            info "Skipping $BIN_DIR/$name symlink to k3s, already exists"
        else
            ln -s k3s "$BIN_DIR/$name"
        fi
    done
    printf '#!/bin/sh\nsystemctl disable --now k3s\n%s\n' \
        "rm -f $FILE_SERVICE $FILE_ENV $BIN_DIR/k3s $BIN_DIR/kubectl $BIN_DIR/crictl $BIN_DIR/ctr $BIN_DIR/k3s-uninstall.sh" \
        >"$BIN_DIR/k3s-uninstall.sh"
    chmod 755 "$BIN_DIR/k3s-uninstall.sh"
}

create_service() {
    systemctl disable k3s >/dev/null 2>&1 || true
    rm -f "$FILE_SERVICE" "$FILE_ENV"

    info "env: Creating environment file $FILE_ENV"
    (umask 0177 && { env | grep '^K3S_' || true; env | grep -Ei '^(NO|HTTP|HTTPS)_PROXY' || true; } >"$FILE_ENV")

    info "systemd: Creating service file $FILE_SERVICE"
    arguments=
    for word in $command_and_flags; do arguments="$arguments    '$word' \\
"; done
    # The real one leaves the command itself unquoted.
    arguments=$(printf '%s' "$arguments" | sed "1s/'\([a-z]*\)'/\1/")
    cat >"$FILE_SERVICE" <<UNIT
[Unit]
Description=Lightweight Kubernetes (a practice stand-in, not k3s)
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-$FILE_ENV
KillMode=process
Delegate=yes
User=root
# Having non-zero Limit*s causes performance problems due to accounting overhead
# in the kernel. We recommend using cgroups to do container-local accounting.
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart=$BIN_DIR/k3s \\
$arguments

UNIT
    chmod 0644 "$FILE_SERVICE"
}

enable_and_start() {
    [ "${INSTALL_K3S_SKIP_ENABLE:-}" != true ] || return 0
    info 'systemd: Enabling k3s unit'
    systemctl enable "$FILE_SERVICE" >/dev/null
    systemctl daemon-reload >/dev/null
    [ "${INSTALL_K3S_SKIP_START:-}" != true ] || return 0
    info 'systemd: Starting k3s'
    systemctl restart k3s
}

setup_env "$@"
verify_system
setup_selinux
download_and_verify
create_links
create_service
enable_and_start
