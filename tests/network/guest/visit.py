"""Requests `GET /` from all targets of a JSON list concurrently; prints the outcomes in its order.

The counterpart of ../probe-client.ts inside a guest. A target is
{"address", "port", "timeoutMs"}; an outcome is as in packages/testkit/src/network/probe-request.ts.
"""

import errno
import json
import socket
import sys
import threading

targets = json.loads(sys.argv[1])
outcomes = [None] * len(targets)


def exchange(target):
    family = socket.AF_INET6 if ":" in target["address"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(target["timeoutMs"] / 1000)
        connection.connect((target["address"], target["port"]))
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        response = b""
        while chunk := connection.recv(65536):
            response += chunk
    return response.partition(b"\r\n\r\n")[2].decode()


def visit(index):
    try:
        body = exchange(targets[index])
    except TimeoutError:
        outcomes[index] = {"reached": False, "code": "silence"}
        return
    except OSError as error:
        outcomes[index] = {"reached": False, "code": errno.errorcode.get(error.errno, str(error))}
        return
    try:
        outcomes[index] = {"reached": True, "response": json.loads(body)}
    except ValueError:
        outcomes[index] = {"reached": True, "response": {"local": "", "peer": body[:200]}}


threads = [threading.Thread(target=visit, args=(index,)) for index in range(len(targets))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(outcomes))
