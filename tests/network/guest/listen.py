"""An HTTP and a UDP server on a port of the guest that reports its peers.

The counterpart of ../listener.ts inside a guest, with the same events on
standard output. `python3 -u -c <this> <port>`.
"""

import json
import socket
import sys
import threading

port = int(sys.argv[1])


def report(event):
    # One write for each line: two threads report.
    sys.stdout.write(json.dumps(event) + "\n")


def respond(connection, local, peer):
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        connection.sendall(json.dumps({"local": local, "peer": peer}).encode())


def receive(datagrams):
    while True:
        text, (peer, _) = datagrams.recvfrom(2048)
        report({"event": "udp", "peer": peer, "text": text.decode()})


datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", port))
threading.Thread(target=receive, args=(datagrams,), daemon=True).start()
server = socket.create_server(("0.0.0.0", port))
report({"event": "ready"})
while True:
    connection, (peer, _) = server.accept()
    local = connection.getsockname()[0]
    report({"event": "tcp", "local": local, "peer": peer})
    threading.Thread(target=respond, args=(connection, local, peer), daemon=True).start()
