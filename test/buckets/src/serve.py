# Serves S3 from the packages in the folder argv[1], at a free port, which it prints; until its standard input ends.
import os
import sys

sys.path.insert(0, sys.argv[1])
from moto.server import ThreadedMotoServer  # noqa: E402

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.buffer.read()
os._exit(0)
