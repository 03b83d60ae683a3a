"""Ten thousand idle connections: `crowd.py echo PORT` is their server, `crowd.py hold ADDRESS PORT
COUNT` opens them, has a byte echoed on each, says `ready`, and holds them until it is ended, or for two
minutes."""

import resource
import selectors
import socket
import sys
import time

AT_ONCE = 200  # A connect each, so that the machine's queue of those who wait does not overflow.


def allow(files):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, hard), max(files, hard)))


def echo(port):
    listener = socket.create_server(("", port), backlog=1000)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            data = key.fileobj.recv(1000)
            if data:
                key.fileobj.sendall(data)
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()


def hold(address, port, count):
    selector = selectors.DefaultSelector()
    held, begun = [], 0
    while len(held) < count:
        while begun < count and begun - len(held) < AT_ONCE:
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((address, port))
            selector.register(client, selectors.EVENT_WRITE)
            begun += 1
        events = selector.select(20)
        assert events, f"nothing happened for 20 s, {len(held)} of {begun} connected"
        for key, event in events:
            client = key.fileobj
            if event & selectors.EVENT_WRITE:
                client.send(b"x")
                selector.modify(client, selectors.EVENT_READ)
            else:
                assert client.recv(1) == b"x"
                selector.unregister(client)
                held.append(client)
    print("ready", flush=True)
    time.sleep(120)


allow(10_500)
if sys.argv[1] == "echo":
    echo(int(sys.argv[2]))
else:
    hold(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
