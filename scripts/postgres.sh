#!/usr/bin/env bash
# A PostgreSQL server of Debian's packages on loopback, for the tests of studies in a database.
#
#   eval "$(scripts/postgres.sh start)"     sets SB3_EXT_TEST_RDB_URL
#   python -m pytest tests/tuning
#   scripts/postgres.sh stop
#
# The data lie in a folder of their own (POSTGRES_DIR) and the port is POSTGRES_PORT, so that a server
# which is there already is left alone. Trusts whoever reaches loopback: for tests only.
set -euo pipefail

dir="${POSTGRES_DIR:-/tmp/sb3-ext-postgres}"
port="${POSTGRES_PORT:-54329}"

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# Debian keeps the server's own programs out of PATH.
server_programs() {
    find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1
}

# The server refuses to run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

case "${1:-}" in
start)
    if [ -z "$(server_programs)" ]; then
        if [ "$(id -u)" != 0 ]; then
            echo "PostgreSQL is not installed: apt-get install postgresql" >&2
            exit 1
        fi
        apt-get install -y postgresql >&2
    fi
    bin="$(server_programs)"
    if [ ! -d "$dir/data" ]; then
        mkdir -p "$dir"
        if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; fi
        as_postgres "$bin/initdb" -D "$dir/data" -U sb3ext --auth=trust --encoding=UTF8 >&2
    fi
    if ! as_postgres "$bin/pg_ctl" -D "$dir/data" status >/dev/null; then
        as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w start \
            -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir -c fsync=off" >&2
    fi
    if ! as_postgres "$bin/psql" -h 127.0.0.1 -p "$port" -U sb3ext -lqt | cut -d '|' -f 1 | grep -qw studies; then
        as_postgres "$bin/createdb" -h 127.0.0.1 -p "$port" -U sb3ext studies >&2
    fi
    echo "export SB3_EXT_TEST_RDB_URL=postgresql+psycopg://sb3ext@127.0.0.1:$port/studies"
    ;;
stop)
    as_postgres "$(server_programs)/pg_ctl" -D "$dir/data" -m fast stop >&2
    ;;
*)
    usage
    ;;
esac
