"""Plays the worker's R: connects to MASTER:PORT like R's own worker loop and obeys one word a line."""

import os
import signal
import socket
import sys
import time

arguments = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
assert arguments["XDR"] == "FALSE"
sock = socket.create_connection((arguments["MASTER"], int(arguments["PORT"])))
stream = sock.makefile("rb")
while line := stream.readline():
    word, _, rest = line.decode().strip().partition(" ")
    if word == "pid":
        sock.sendall(f"{os.getpid()}\n".encode())
    elif word == "tmpdir":
        sock.sendall(f"{os.environ['TMPDIR']}\n".encode())
    elif word == "echo":
        left = int(rest)
        while left:
            piece = stream.read(min(left, 1 << 18))
            sock.sendall(piece)
            left -= len(piece)
    elif word == "sleep":
        time.sleep(float(rest))
        sock.sendall(b"slept\n")
    elif word == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(600)
        sock.sendall(f"{child}\n".encode())
    elif word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "quit":
        break
    else:
        raise SystemExit(f"unknown word {word!r}")
