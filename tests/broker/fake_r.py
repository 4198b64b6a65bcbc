"""Plays the worker's R: connects to PORT like worker.R, answers tasks and, once attached, obeys one word a line.

A task's bytes are a program of lines of the same words; what they print is the result.
"""

import os
import signal
import socket
import sys
import time

arguments = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
sock = socket.create_connection(("127.0.0.1", int(arguments["PORT"])))
stream = sock.makefile("rb")


def obey(word: str, rest: str) -> bytes:
    if word == "pid":
        return f"{os.getpid()}\n".encode()
    if word == "tmpdir":
        return f"{os.environ['TMPDIR']}\n".encode()
    if word == "echo":
        left, pieces = int(rest), list[bytes]()
        while left:
            piece = stream.read(min(left, 1 << 18))
            sock.sendall(piece)
            left -= len(piece)
        return b"".join(pieces)
    if word == "sleep":
        time.sleep(float(rest))
        return b"slept\n"
    if word == "burn":  # so much CPU time
        end = time.process_time() + float(rest)
        while time.process_time() < end:
            pass
        return b"burnt\n"
    if word == "until":
        while not os.path.exists(rest):
            time.sleep(0.02)
        return b"there\n"
    if word == "once":  # the first time it dies, as an R that is killed
        if not os.path.exists(rest):
            open(rest, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return b"again\n"
    if word == "touch":
        with open(rest, "a") as file:
            file.write("x")
        return b"touched\n"
    if word == "object":
        path = os.path.join(os.environ["FUTURE_KUBERNETES_OBJECTS"], rest)
        return f"{os.path.getsize(path)} from {os.stat(path).st_mtime_ns}\n".encode()
    if word == "note":  # of the files of the session's folder
        with open(os.path.join(os.environ["FUTURE_KUBERNETES_OBJECTS"], "files"), "rb") as file:
            return file.read()
    if word == "want":  # a package by its folder, or the list of them
        sock.sendall(b"want %d\n%b" % (len(rest.encode()), rest.encode()))
        return stream.read(int(stream.readline().split()[1])) + b"\n"
    if word == "library":
        return f"{sorted(os.listdir(os.environ['FUTURE_KUBERNETES_LIBRARY']))}\n".encode()
    if word == "read":
        with open(os.path.join(os.environ["FUTURE_KUBERNETES_LIBRARY"], rest), "rb") as file:
            return file.read() + b"\n"
    if word == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(600)
        return f"{child}\n".encode()
    if word == "print":
        print(rest, flush=True)
        return b""
    if word == "bytes":
        return b"x" * int(rest)
    if word == "value":  # a large value of the result: so many bytes of a letter
        size, letter = rest.split()
        sock.sendall(b"value %d\n%b" % (int(size), letter.encode() * int(size)))
        return b""
    if word == "hold":  # so much memory, for a moment
        return (b"x" * int(rest))[:0]
    if word == "tell":
        sock.sendall(b"condition %d\n%s" % (len(rest), rest.encode()))
        return b""
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "leave":
        os._exit(int(rest))
    raise SystemExit(f"unknown word {word!r}")


while line := stream.readline():
    word, _, rest = line.decode().strip().partition(" ")
    if word == "attach":
        break
    assert word == "task", line
    program = stream.read(int(rest)).decode()
    if program.startswith("unreadable"):
        sock.sendall(b"unread 7\nno such")
        continue
    answer = b"".join(obey(*step.partition(" ")[::2]) for step in program.splitlines())
    sock.sendall(b"done %d\n" % len(answer) + answer)
while line := stream.readline():
    word, _, rest = line.decode().strip().partition(" ")
    if word == "quit":
        break
    sock.sendall(obey(word, rest))
