#!/usr/bin/env bash
# Proves, without a container engine, that the image's binary needs nothing but itself: starts every role in a root directory
# that holds the binary, its configuration, /etc/hosts, /etc/resolv.conf, /dev/random and /dev/urandom, read-only, as user 65532,
# against a real nats-server, and waits until each is ready. Works as root, and as an ordinary user where user namespaces may be
# made.
#
#   deploy/image-check.sh BINARY NATS_SERVER
set -euo pipefail

binary=$1 nats_server=$2
user=65532
scratch=$(mktemp -d)
children=()

finish() {
    for child in "${children[@]}"; do kill -KILL "$child" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT

fail() {
    printf 'image-check: %s\n' "$1" >&2
    for log in "$scratch"/*.log; do [ ! -f "$log" ] || printf -- '--- %s\n' "${log##*/}" >&2; tail -n 20 "$log" >&2; done
    exit 1
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# process seconds what command...: until it succeeds, while the process runs.
wait_for() {
    local process=$1 deadline=$((SECONDS + $2)) what=$3
    shift 3
    until "$@" >/dev/null 2>&1; do
        kill -0 "$process" 2>/dev/null || fail "$what: it ended"
        ((SECONDS < deadline)) || fail "$what: not in time"
        sleep 0.1
    done
}

# 1. Static: no interpreter, no libraries.
if readelf --program-headers --wide "$binary" | grep -q INTERP; then fail "$binary asks for a loader"; fi
if readelf --dynamic "$binary" | grep -q NEEDED; then fail "$binary asks for libraries"; fi

# 2. A root with nothing else in it. `data` is where a volume for an SQLite history would be.
root=$scratch/root
mkdir -p "$root/usr/bin" "$root/etc/cuitty-webhooks" "$root/data"
install -m 755 "$binary" "$root/usr/bin/cuitty-webhooks"
echo 'nameserver 127.0.0.1' > "$root/etc/resolv.conf"
printf '127.0.0.1 localhost nats.image-check.test\n' > "$root/etc/hosts"
mkdir "$root/dev"
touch "$root/dev/random" "$root/dev/urandom"
chmod 755 "$scratch" "$root" "$root"/* "$root/etc/cuitty-webhooks"

# As the container runtime would: a mount namespace of its own, everything read-only but the volume, of the devices that every
# container has those that are needed, and then the user.
enter=$scratch/enter.sh
cat > "$enter" <<'SCRIPT'
set -eu
root=$1 user=$2; shift 2
mount --bind "$root" "$root"
mount -t tmpfs -o mode=0755,size=64m tmpfs "$root/data"
[ "$(id -u)" != 0 ] || [ "${NAMESPACED:-}" ] || chown "$user:$user" "$root/data"
mount -o remount,bind,ro "$root"
for device in /dev/random /dev/urandom; do
    mount --bind "$device" "$root$device"
    # Flags that the mount has may not be left out by an ordinary user.
    mount -o "remount,bind,ro,$(findmnt --noheadings --output VFS-OPTIONS --target "$device" | sed 's/^rw,//')" "$root$device"
done
if [ "${NAMESPACED:-}" ]; then
    exec unshare --user --map-user="$user" --map-group="$user" --root="$root" /usr/bin/cuitty-webhooks "$@"
fi
exec chroot --userspec="$user:$user" --groups= "$root" /usr/bin/cuitty-webhooks "$@"
SCRIPT
in_root() {
    if [ "$(id -u)" = 0 ] && [ -z "${AS_USER:-}" ]; then
        exec env -i PATH="$PATH" unshare --mount sh "$enter" "$root" "$user" "$@"
    else
        exec env -i PATH="$PATH" NAMESPACED=1 unshare --map-root-user --mount sh "$enter" "$root" "$user" "$@"
    fi
}

# 3. A real nats-server, found by name.
nats_port=$(free_port)
"$nats_server" --addr 127.0.0.1 --port "$nats_port" --jetstream --store_dir "$scratch/nats" >"$scratch/nats.log" 2>&1 &
children+=($!)
wait_for $! 20 "nats-server" bash -c "exec 3<>/dev/tcp/127.0.0.1/$nats_port"

# 4. Every role, ready, as what it is said to be.
check() {
    local roles=$1 api admin process
    api=$(free_port) admin=$(free_port)
    cat > "$root/etc/cuitty-webhooks/$roles.toml" <<CONFIG
listen = { api = "127.0.0.1:$api", admin = "127.0.0.1:$admin" }
log = { url = "nats://nats.image-check.test:$nats_port" }
history = { url = "sqlite:/data/history.db" }
sealing = { keys = ["check:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="] }
CONFIG
    chmod 644 "$root/etc/cuitty-webhooks/$roles.toml"
    local config=/etc/cuitty-webhooks/$roles.toml
    (in_root healthcheck --config "$config") >/dev/null 2>&1 && fail "$roles: healthy before it runs"
    (in_root serve --role "$roles" --config "$config") >"$scratch/$roles.log" 2>&1 &
    process=$!
    children+=("$process")
    wait_for "$process" 60 "$roles is ready" env -i CUITTY_WEBHOOKS__LISTEN__ADMIN="127.0.0.1:$admin" "$binary" healthcheck
    (in_root healthcheck --config "$config") >/dev/null || fail "$roles: healthcheck says that it is not ready"
    (in_root healthcheck --live --config "$config") >/dev/null || fail "$roles: healthcheck says that it is not alive"

    # The process itself, below what has entered the namespaces.
    local pid=$process below
    while read -r below _ < "/proc/$pid/task/$pid/children" && [ -n "$below" ]; do pid=$below; done
    # As the innermost namespace sees it.
    local seen writable
    seen=$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")
    if [ "$(id -u)" = 0 ] && [ -z "${AS_USER:-}" ]; then
        [ "$seen" = "$user" ] || fail "$roles runs as user $seen"
    else
        [ "$(awk '{ print $1 }' "/proc/$pid/uid_map")" = "$user" ] || fail "$roles runs as another user than $user"
    fi
    grep -q '^CapEff:[[:space:]]*0*$' "/proc/$pid/status" || fail "$roles has capabilities"
    writable=$(awk '$6 !~ /^ro/ { print $5 }' "/proc/$pid/mountinfo" | sort | tr '\n' ' ')
    [ "$writable" = "/data " ] || fail "$roles can write to $writable"
    if [ "$roles" != api,projector ] && [ -n "$(ls -A "/proc/$pid/root/data")" ]; then fail "$roles wrote a file"; fi

    kill -TERM "$pid"
    wait "$process" || fail "$roles ended with $?"
    printf '%-14s ready and ended well in an empty, read-only root as user %s, without capabilities\n' "$roles" "$user"
}
check api,projector
check ingest
check dispatcher

printf '%-14s %s MiB, static\n' "binary" "$(($(stat --format %s "$binary") / 1048576))"
