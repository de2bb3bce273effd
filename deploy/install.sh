#!/bin/sh
# Brings what `make` needs onto this machine: system packages (Debian/Ubuntu, as root or with sudo) and .venv.
# usage: deploy/install.sh run|media|test
set -eu
cd "$(dirname "$0")/.."
purpose=${1:?usage: deploy/install.sh run|media|test}

say() { printf '%s\n' "$*" >&2; }

postgis_package() {
    # Debian 12's own; elsewhere whatever version the distribution ships.
    if apt-cache show postgresql-15-postgis-3 >/dev/null 2>&1; then echo postgresql-15-postgis-3; else echo postgresql-postgis; fi
}

have_postgis() {
    for home in /usr/lib/postgresql/*/ /opt/homebrew/opt/postgresql*/; do
        [ -x "${home}bin/postgres" ] || continue
        [ -e "${home}lib/postgis-3.so" ] || [ -e "${home}lib/postgresql/postgis-3.dylib" ] && return 0
    done
    command -v pg_config >/dev/null 2>&1 && [ -e "$(pg_config --pkglibdir)/postgis-3.so" ]
}

missing=""
want() { missing="$missing $1"; }
python3 -c 'import ensurepip, venv' 2>/dev/null || want python3-venv
if [ -z "${NEARCAST_DATABASE_URL:-}" ] || [ "$purpose" = test ]; then have_postgis || want postgis; fi
if [ -z "${NEARCAST_REDIS_URL:-}" ] || [ "$purpose" = test ]; then command -v redis-server >/dev/null 2>&1 || want redis-server; fi
if [ "$purpose" != run ]; then
    # Not every user has the system's servers on PATH.
    PATH=$PATH:/usr/sbin command -v nginx >/dev/null 2>&1 || want nginx-light
    [ -e /usr/lib/nginx/modules/ngx_rtmp_module.so ] || want libnginx-mod-rtmp
fi
if [ "$purpose" = test ]; then
    command -v ffmpeg >/dev/null 2>&1 || want ffmpeg
    command -v chromium >/dev/null 2>&1 || want chromium
    command -v chromedriver >/dev/null 2>&1 || want chromium-driver
    command -v node >/dev/null 2>&1 || want nodejs
    command -v promtool >/dev/null 2>&1 || want prometheus
    [ -d /usr/share/fonts/opentype/noto ] || want fonts-noto-cjk
    # Cables between network namespaces, where one may make them.
    command -v ip >/dev/null 2>&1 || want iproute2
    # One process's wall clock is set wrong with it.
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || want libfaketime
    # Not started, only asked what it thinks of deploy/systemd.
    command -v systemd-analyze >/dev/null 2>&1 || want systemd
fi

if [ -n "$missing" ]; then
    if command -v apt-get >/dev/null 2>&1; then
        as_root=""
        [ "$(id -u)" = 0 ] || as_root="sudo"
        if [ -n "$as_root" ] && ! command -v sudo >/dev/null 2>&1; then
            say "Missing:$missing. As root, run: apt-get install -y$(echo "$missing" | sed "s/ postgis/ $(postgis_package)/")"
            exit 1
        fi
        say "Installing$missing …"
        $as_root apt-get update -qq
        packages=$(echo "$missing" | sed "s/ postgis/ $(postgis_package)/")
        # Debian would start a system-wide PostgreSQL, Redis and nginx; ours are private to this checkout.
        blocked=""
        output=$(mktemp)
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            blocked=yes
            printf '#!/bin/sh\nexit 101\n' | $as_root tee /usr/sbin/policy-rc.d >/dev/null
            $as_root chmod +x /usr/sbin/policy-rc.d
            trap '$as_root rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
        fi
        # shellcheck disable=SC2086
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >"$output" 2>&1 || {
            tail -n 5 "$output" >&2
            say "That failed. Run it yourself to see all of it: apt-get install -y $packages"
            exit 1
        }
        if [ -n "$blocked" ]; then $as_root rm -f /usr/sbin/policy-rc.d; fi
        rm -f "$output"
    elif command -v brew >/dev/null 2>&1; then
        say "Missing:$missing. Run: brew install postgis redis"
        exit 1
    else
        say "Missing:$missing. Start deploy/compose.yaml and set NEARCAST_DATABASE_URL and NEARCAST_REDIS_URL."
        exit 1
    fi
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "Nearcast needs Python 3.11 or newer; this python3 is $(python3 -V)."
    exit 1
}

[ "$purpose" = test ] || purpose=run
lock=requirements.lock
[ "$purpose" = test ] && lock=requirements-dev.lock
# The stamp carries the locks' hashes: a changed lock installs again, an interrupted install is finished.
stamp=.venv/.installed-$(cat "$lock" pyproject.toml | sha256sum | cut -c1-16)-$purpose
if [ ! -e "$stamp" ]; then
    say "Installing Python packages into .venv …"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r "$lock"
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
    touch "$stamp"
fi
