# Starts a server and waits for the end of its input, which is the end of the test's process; then removes everything.
# Arguments: folder of the programs, folder for data and socket, user.
trap '' HUP INT TERM
exec >"$2/log" 2>&1
export LC_ALL=C.UTF-8
if "$1/initdb" --pgdata="$2/data" --username="$3" --auth=trust --encoding=UTF8 --no-sync --no-instructions; then
  # Durability is not what is tested: a crash of the machine may lose it all.
  "$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off -c max_connections=200 \
    -c shared_buffers=32MB -c max_wal_size=256MB &
  server=$!
else
  touch "$2/failed"
fi
cat
if [ -n "${server:-}" ]; then
  kill -QUIT "$server"
  wait "$server"
fi
cd /
rm -rf "$2"
