"""A proxy in front of Redis that misbehaves when told to.

Like any proxy it answers the commands of one connection in their order, so a key it is slow about holds up
whatever was asked behind it.
"""
import contextlib
import os
import socket
import threading


def read_command(stream):
    """One command as (its bytes, its words), or None at the end."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    raw, words = [line], []
    for _ in range(int(line[1:])):
        head = stream.readline()
        body = stream.read(int(head[1:]) + 2)
        raw += [head, body]
        words.append(body[:-2])
    return b"".join(raw), words


def read_raw_reply(stream):
    line = stream.readline()
    if not line:
        raise ConnectionError("Redis hung up")
    kind, n = line[:1], line[1:-2]
    if kind == b"$" and n != b"-1":
        return line + stream.read(int(n) + 2)
    if kind == b"*":
        return line + b"".join(read_raw_reply(stream) for _ in range(max(int(n), 0)))
    return line


class Proxy:
    """`fault(line, words, reply)`, when set, answers in the proxy's place by line.send and line.wait."""

    def __init__(self, path, upstream):
        self.path, self.upstream = path, upstream
        self.fault = None
        self.mended = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(128)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self.upstream)
            commands, replies = client.makefile("rb"), server.makefile("rb")
            while command := read_command(commands):
                server.sendall(command[0])
                reply = read_raw_reply(replies)
                fault = self.fault
                if fault is None:
                    client.sendall(reply)
                elif fault(Line(self, client), command[1], reply) is False:
                    return

    def misbehave(self, fault):
        self.mended.clear()
        self.fault = fault

    def mend(self):
        self.fault = None
        self.mended.set()

    def stop(self):
        self.mend()
        self.listener.close()
        os.unlink(self.path)


class Line:
    """What a fault has of one connection."""

    def __init__(self, proxy, client):
        self.proxy, self.client, self.send = proxy, client, client.sendall

    def wait(self, seconds=None):
        """True once the proxy is mended, False when the time was over first."""
        return self.proxy.mended.wait(seconds)

    def ignore(self):
        """Nothing more, until the other side hangs up."""
        while self.client.recv(65536):
            pass
        return False


# ---- faults: each answers one command, and returns False to hang up ------------------------------


def slow(seconds):
    """Every reply takes as long."""
    def fault(line, _, reply):
        line.wait(seconds)
        line.send(reply)
    return fault


def trickle(line, _, reply):
    """A byte now and then."""
    for i in range(len(reply)):
        line.wait(0.005)
        line.send(reply[i:i + 1])


def half(line, words, reply):
    """Half a reply, then the connection is closed."""
    if words[0] == b"PING":
        line.send(reply)
        return True
    line.send(reply[:len(reply) // 2])
    return False


def instead(answer, close=False, hang=False):
    """Other bytes than those of the reply, then perhaps nothing; greetings are answered."""
    def fault(line, words, reply):
        if words[0] == b"PING":
            line.send(reply)
            return True
        line.send(answer)
        return line.ignore() if hang else not close
    return fault


def hang(key):
    """One key is not answered until the proxy is mended."""
    def fault(line, words, reply):
        if words[1:2] == [key]:
            line.wait()
        line.send(reply)
    return fault
