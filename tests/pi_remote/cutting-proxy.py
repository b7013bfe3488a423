"""A TCP proxy that cuts connections on which the client has sent too much: a cable that is pulled.

cutting-proxy.py LISTEN TARGET CUT_AFTER_BYTES TIMES LOG: the first TIMES such connections end in the middle.
Each connection leaves a line in LOG, the bytes that the client sent.
"""

import contextlib
import socket
import sys
import threading
from pathlib import Path

LISTEN, TARGET, CUT_AFTER, TIMES, LOG = (
    sys.argv[1],
    sys.argv[2],
    int(sys.argv[3]),
    int(sys.argv[4]),
    sys.argv[5],
)
cuts = threading.Semaphore(TIMES)


def end(*ends: socket.socket) -> None:
    for each in ends:
        with contextlib.suppress(OSError):  # the other side was faster
            each.shutdown(socket.SHUT_RDWR)


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass  # reset: over, as at its end
    end(source, target)


def copy_and_cut(client: socket.socket, board: socket.socket) -> None:
    sent = 0
    try:
        while data := client.recv(4096):
            sent += len(data)
            if sent > CUT_AFTER and cuts.acquire(blocking=False):
                break
            board.sendall(data)
    except OSError:
        pass
    with Path(LOG).open("a") as log:
        log.write(f"{sent}\n")
    end(client, board)


with socket.create_server((LISTEN, 22)) as server:
    print("listening", flush=True)
    while True:
        client, _ = server.accept()
        try:
            board = socket.create_connection((TARGET, 22))
        except OSError:
            client.close()
            continue
        threading.Thread(target=copy, args=(board, client), daemon=True).start()
        threading.Thread(target=copy_and_cut, args=(client, board), daemon=True).start()
