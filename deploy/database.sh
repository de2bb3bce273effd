#!/bin/sh
# A copy of the database in one file, and the way back. It holds no places: fixes lie in an unlogged table, which is
# left out. docs/operations.md says when this is enough and when the write-ahead log has to be kept too.
# usage: NEARCAST_DATABASE_URL=… deploy/database.sh backup FILE     writes FILE, whole or not at all
#        NEARCAST_DATABASE_URL=… deploy/database.sh restore FILE    into an empty database, whole or not at all
set -eu
verb=${1:-}
file=${2:-}
[ -n "$file" ] || { sed -n 's/^# usage: \|^#        //p' "$0" >&2; exit 2; }

# Through the environment: arguments show in the process list, and the address has a password in it.
eval "$(python3 -c '
import os, shlex
from urllib.parse import parse_qsl, unquote, urlsplit
url = urlsplit(os.environ["NEARCAST_DATABASE_URL"])
parts = {"PGHOST": url.hostname, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password,
         "PGDATABASE": url.path.lstrip("/"), "PGSSLMODE": dict(parse_qsl(url.query)).get("sslmode")}
for name, value in parts.items():
    if value:
        print(f"export {name}={shlex.quote(unquote(str(value)))}")
')"
umask 077
case $verb in
backup)
    unfinished=$file.unfinished
    trap 'rm -f "$unfinished"' EXIT
    pg_dump --format=custom --no-owner --no-privileges --no-unlogged-table-data --file="$unfinished"
    pg_restore --file=/dev/null "$unfinished"  # it can be read to its end
    mv "$unfinished" "$file"
    ;;
restore)
    pg_restore --exit-on-error --single-transaction --no-owner --no-privileges --dbname="$PGDATABASE" "$file"
    # A copy has no statistics; without them the first evening plans badly.
    psql --quiet --no-psqlrc --command='ANALYZE'
    ;;
*)
    sed -n 's/^# usage: \|^#        //p' "$0" >&2
    exit 2
    ;;
esac
