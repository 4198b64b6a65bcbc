"""Answers like the broker, with R processes of this machine for workers: FOLDER RSCRIPT WANTED."""

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time

folder, rscript, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
lock = threading.Lock()
number = 0
busy = {}  # lease -> pid of the session
outcomes = {}
server = socket.create_server(("127.0.0.1", 0))


def relay(source, sink, at_end):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    at_end()
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def expected():
    """True if one more worker is counted as free that will not reconnect."""
    return os.path.exists(os.path.join(folder, "expected"))


def attach(sock, pid, seconds):
    global number
    deadline = time.monotonic() + float(seconds)
    while True:
        with lock:
            if len(busy) < wanted:
                number += 1
                name = f"t-{number}"
                busy[name] = pid
                break
        if time.monotonic() >= deadline or expected():
            if expected():
                os.remove(os.path.join(folder, "expected"))
            sock.sendall(b"error no worker is free\n")
            return
        time.sleep(0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [rscript, "-e", "parallel:::.workRSOCK()", "MASTER=127.0.0.1", f"PORT={listener.getsockname()[1]}",
             "OUT=/dev/null", "TIMEOUT=600", "XDR=FALSE", "SETUPTIMEOUT=20", "SETUPSTRATEGY=sequential"]
        )
        worker, _ = listener.accept()
    sock.sendall(f"ok {name} pod-{name} node-1\n".encode())
    threading.Thread(target=relay, args=(sock, worker, lambda: None), daemon=True).start()

    def ended():
        try:
            status = process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            status = 0
        if status < 0:
            outcomes[name] = f"its R process was ended by signal {-status}"
        with lock:
            busy.pop(name, None)

    relay(worker, sock, ended)


def release(sock, said):
    """Records the lines of a pending release; answers as many reclaimed workers as the file of that name has."""
    reclaimed = os.path.join(folder, "reclaimed")
    for line in itertools.chain([said], sock.makefile()):
        with open(os.path.join(folder, "said"), "a") as file:
            file.write(line)
        if line == "cancel-release\n":
            sock.sendall(b"ok " + (open(reclaimed, "rb").read().strip() if os.path.exists(reclaimed) else b"0") + b"\n")


def read_line(sock):
    line = b""
    while not line.endswith(b"\n"):
        piece = sock.recv(1)
        if not piece:
            return ""
        line += piece
    return line.decode()


def serve(sock):
    global wanted
    version = os.path.join(folder, "version")
    banner = open(version).read() if os.path.exists(version) else "protocol 1\n"
    sock.sendall(banner.encode())
    if read_line(sock) != banner:
        return
    line = read_line(sock)
    if not line:
        return
    word, *rest = line.split()
    if word == "attach":
        attach(sock, *rest)
        return
    if word == "release":
        release(sock, line)
        return
    mine = sum(pid == rest[0] for pid in busy.values()) if rest else 0
    rows = [
        {"pod": f"pod-{name}", "node": "node-1", "state": "busy", "since": time.time(), "session": int(pid), "losses": 0}
        for name, pid in busy.items()
    ]
    if word == "stop":
        os._exit(0)
    if word == "scale":
        if int(rest[0]) > 5:
            answer = f"error above-maximum {rest[0]} workers were asked for; this release allows 0 to 5"
        else:
            wanted = int(rest[0])
            answer = f"ok {wanted}"
    elif word == "status":
        problem = open(os.path.join(folder, "problem")).read() if os.path.exists(os.path.join(folder, "problem")) else ""
        answer = f"ok {wanted} {len(busy)} 0 0\t1 starting\t{problem}\t3"
    else:
        free = 0 if os.path.exists(os.path.join(folder, "none")) else wanted - len(busy) + expected()
        answer = {
            "count": f"ok {free} {mine} {len(busy) - mine}",
            "draining": "ok ",
            "outcome": "ok " + outcomes.get(rest[0] if rest else "", ""),
            "workers": json.dumps(rows),
        }[word]
    sock.sendall(answer.encode() + b"\n")
    sock.close()


with open(os.path.join(folder, "new"), "w") as file:
    file.write(f"{server.getsockname()[1]}\n")
os.rename(os.path.join(folder, "new"), os.path.join(folder, "broker.port"))
threading.Timer(300, os._exit, (1,)).start()  # never outlive the tests
while True:
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
