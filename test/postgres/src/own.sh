# Holds a server that does as it is told by lines of its input, and removes everything at the end of them.
# Arguments: folder of the programs, folder for data, socket and log, user, most connections.
trap '' HUP INT TERM
exec >>"$2/log" 2>&1
export LC_ALL=C.UTF-8
begin() {
  "$1/postgres" -D "$2/data/db" -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off \
    -c max_connections="$4" -c superuser_reserved_connections=0 -c max_wal_senders=0 -c shared_buffers=16MB \
    -c min_wal_size=2MB -c max_wal_size=8MB &
  server=$!
}
"$1/initdb" --pgdata="$2/data/db" --username="$3" --auth=trust --encoding=UTF8 --wal-segsize=1 --no-sync \
  --no-instructions || touch "$2/failed"
begin "$@"
orders=0
while read -r order; do
  case "$order" in
    # With all its processes: those that are left would keep the next one from starting.
    kill) kill -KILL "$server" $(cat "/proc/$server/task/$server/children"); wait "$server" ;;
    start) kill -0 "$server" || begin "$@" ;;
    fill) dd if=/dev/zero of="$2/data/ballast" bs=16k ;;
    free) rm "$2/data/ballast" ;;
  esac
  orders=$((orders + 1))
  echo "$orders" >"$2/orders.new"
  mv "$2/orders.new" "$2/orders"
done
kill -QUIT "$server"
wait "$server"
cd /
rm -rf "$2"
