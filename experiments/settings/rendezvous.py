"""Processes meet before JAX starts: its own service ends a process, without a word, if another one does not come.

Process 0 listens at the coordinator's address. Every other one connects and says ``diffrec_jax NUMBER/COUNT``; when all
are there, process 0 stops listening and answers ``go``, and JAX takes over the address. Otherwise it answers why not.
"""

import contextlib
import os
import selectors
import socket
import time

GREETING = "diffrec_jax"
PAUSE = 0.2  # seconds between two looks
LONGEST = 2**16  # bytes of a message


def gather(address: str, count: int, seconds: int) -> None:
    """Wait, as process 0, until all others have come.

    Raises:
      OSError: if the port is taken, or some did not come in time; those that did are told.
    """
    port = int(address.rpartition(":")[2])
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as opened:
        try:
            listener = opened.enter_context(_listener(port))
        except OSError as error:
            raise OSError(
                f"process 0 cannot listen at {address} ({os.strerror(error.errno or 0)}): choose another port for "
                "--coordinator"
            ) from None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(listener, selectors.EVENT_READ)
            while len(came) < count - 1 and time.monotonic() < deadline:
                for key, _ in ready.select(min(PAUSE, max(0.0, deadline - time.monotonic()))):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    if connection is listener:
                        newcomer = opened.enter_context(listener.accept()[0])
                        newcomer.settimeout(1.0)
                        ready.register(newcomer, selectors.EVENT_READ)
                        continue
                    number = None if connection in came.values() else _number(connection, count, came)
                    if number is None:  # gone again, or nobody of ours
                        ready.unregister(connection)
                        connection.close()
                        came = {n: other for n, other in came.items() if other is not connection}
                    else:
                        came[number] = connection
        listener.close()
        missing = sorted(set(range(1, count)) - set(came))
        sentence = (
            f"of {count} processes, number {', '.join(map(str, missing))} did not come to the coordinator at {address} "
            f"within {seconds} s: start all of them, with the same --coordinator and --process_count"
        )
        for connection in came.values():
            with contextlib.suppress(OSError):
                connection.sendall((sentence if missing else "go").encode() + b"\n")
        if missing:
            raise OSError(sentence)


def attend(address: str, number: int, count: int, seconds: int) -> None:
    """Come to process 0, as another one, and wait until it says that all are there.

    Raises:
      OSError: if it is not there in time, does not answer, or says that this process has no place.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    with wait_for(host, int(port), seconds) as connection:
        try:
            connection.sendall(f"{GREETING} {number}/{count}\n".encode())
            connection.settimeout(max(PAUSE, deadline - time.monotonic()))
            answer = _line(connection)
        except TimeoutError:
            raise OSError(
                f"the coordinator at {address} still waits for other processes after {seconds} s: start all of them, "
                "with the same --coordinator and --process_count"
            ) from None
        except OSError:
            answer = ""
    if answer != "go":
        raise OSError(
            answer
            or f"what answers at {address} is no process 0 that waits for others: start it there, or correct "
            "--coordinator"
        )


def wait_for(host: str, port: int, seconds: int) -> socket.socket:
    """A connection to whoever listens there, as soon as somebody does.

    Raises:
      OSError: if nobody does in time.
    """
    deadline = time.monotonic() + seconds
    reason: Exception | None = None
    while time.monotonic() < deadline:
        try:
            return socket.create_connection((host, port), timeout=1.0)
        except OSError as error:
            reason = error
            time.sleep(PAUSE)
    raise OSError(
        f"no coordinator answers at {host}:{port} within {seconds} s ({reason}): start process 0 there, or correct "
        "--coordinator"
    )


def _listener(port: int) -> socket.socket:
    """At all addresses of this machine, as JAX's own service does."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _number(connection: socket.socket, count: int, came: dict[int, socket.socket]) -> int | None:
    """The number of the process that speaks; None, and an answer where it is one of ours, if it has no place here."""
    try:
        greeting, _, place = _line(connection).partition(" ")
        number, _, theirs = place.partition("/")
        if greeting != GREETING or not (number.isdigit() and theirs.isdigit()):
            return None
        if int(theirs) != count:
            answer = f"process_count={theirs} here, and {count} at process 0: say the same to all processes"
        elif not 0 < int(number) < count or int(number) in came:
            answer = f"process_id={number} has come to process 0 already: give every process a number of its own"
        else:
            return int(number)
        connection.sendall(answer.encode() + b"\n")
    except OSError:
        pass
    return None


def _line(connection: socket.socket) -> str:
    """What is said up to the end of a line, or of the connection."""
    said = b""
    while not said.endswith(b"\n") and len(said) < LONGEST:
        more = connection.recv(LONGEST)
        if not more:
            break
        said += more
    return said.decode(errors="replace").strip()
