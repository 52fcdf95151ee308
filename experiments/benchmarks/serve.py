"""Benchmark: the service under one client, under many, and after thousands of malformed requests.

    python -m experiments.benchmarks.serve                     # DiffRec of ML-1M's shape, T = 40, histories of 50
    python -m experiments.benchmarks.serve --workdir=runs/a    # a model of your own

The service runs in a process of its own and the clients in this one, on 127.0.0.1 only; on a machine of two cores they
share them. The last line is one JSON object; latencies are milliseconds as the client sees them.
"""

import argparse
import asyncio
import collections
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import made_up

TARGETS = {"one_client_p50_ms": 8.0, "requests_per_second": 300.0, "p99_ms": 150.0, "errors": 0, "answers_500": 0}
USERS, ITEMS = 5949, 2810  # ML-1M, clean


def main() -> None:
    """Start the service, measure, stop it, print."""
    parser = argparse.ArgumentParser(description="The service under load, on loopback.")
    parser.add_argument("--workdir", default="", help="serve this instead of a made-up model")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--malformed", type=int, default=2_000)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--k", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir, items = args.workdir, ITEMS
        if not workdir:
            workdir = str(Path(folder) / "model")
            rows = made_up.random_rows(np.random.default_rng(0), users=USERS, items=ITEMS, length=70)
            made_up.export(made_up.diffrec(steps=40, dims=(200, 600)), rows, Path(workdir))
        process, port, started = start(workdir)
        try:
            if args.workdir:
                items = int(json.loads(ask(port, "GET", "/health", None)[1])["items"])
            print(f"serving {workdir} on port {port} after {started:.1f} s")
            result = measure(port, items, args)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
    print(json.dumps({**result, "start_seconds": round(started, 1), "exit_code": code, "targets": TARGETS}))


def start(workdir: str) -> tuple["subprocess.Popen[str]", int, float]:
    """The service's process, its port, and how long it took to be ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "experiments.serve", f"--workdir={workdir}", "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    if found is None:
        raise RuntimeError(f"the service did not start: {line!r}")
    return process, int(found.group(1)), time.perf_counter() - began


def measure(port: int, items: int, args: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    rng = random.Random(0)
    bodies = [
        json.dumps({"history": rng.sample(range(items), min(args.history, items // 2)), "k": args.k}).encode()
        for _ in range(200)
    ]
    asyncio.run(load(port, bodies, requests=200, clients=args.clients))  # warm
    alone = asyncio.run(load(port, bodies, requests=min(500, args.requests), clients=1))
    print(f"one client: {summary(alone)}")
    many = asyncio.run(load(port, bodies, requests=args.requests, clients=args.clients))
    print(f"{args.clients} clients: {summary(many)}")
    statuses = malformed(port, args.malformed)
    print(f"malformed: {dict(statuses)}")
    after = asyncio.run(load(port, bodies, requests=args.requests, clients=args.clients))
    print(f"{args.clients} clients, afterwards: {summary(after)}")
    return {
        "one_client_p50_ms": alone["p50_ms"],
        "one_client_p99_ms": alone["p99_ms"],
        "requests_per_second": many["requests_per_second"],
        "p50_ms": many["p50_ms"],
        "p99_ms": many["p99_ms"],
        "requests": args.requests,
        "clients": args.clients,
        "errors": many["errors"],
        "malformed": statuses.total(),
        "malformed_statuses": {str(status): count for status, count in sorted(statuses.items())},
        "answers_500": sum(count for status, count in statuses.items() if status >= 500),
        "after": after,
    }


def summary(found: dict[str, float]) -> str:
    """One line."""
    return ", ".join(f"{name} {value}" for name, value in found.items())


async def load(port: int, bodies: list[bytes], *, requests: int, clients: int) -> dict[str, float]:
    """``requests`` requests from ``clients`` connections, each waiting for its answer before it asks again."""
    left = iter(range(requests))
    seconds: list[float] = []
    errors = 0

    async def client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in left:
            body = bodies[i % len(bodies)]
            began = time.perf_counter()
            writer.write(
                b"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            answer = await reader.readexactly(int(length.group(1)) if length else 0)
            seconds.append(time.perf_counter() - began)
            errors += not (head.startswith(b"HTTP/1.1 200") and answer.startswith(b'{"items":[{'))
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - began
    ordered = sorted(seconds)
    return {
        "p50_ms": round(1e3 * statistics.median(ordered), 2),
        "p99_ms": round(1e3 * ordered[int(0.99 * (len(ordered) - 1))], 2),
        "requests_per_second": round(requests / took, 1),
        "errors": errors,
    }


def malformed(port: int, count: int) -> "collections.Counter[int]":
    """Send ``count`` bodies that are broken, or arbitrary JSON that Hypothesis draws; how often each status came."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    statuses: collections.Counter[int] = collections.Counter()
    scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    value = st.recursive(scalar, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
    names = ("user", "history", "history_times", "k", "exclude_seen", "candidates", "explain", "item")
    document = value | st.dictionaries(st.sampled_from(names), value | st.lists(scalar), max_size=5)
    body = st.binary(max_size=200) | document.map(lambda d: json.dumps(d).encode())

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(path=st.sampled_from(("/recommend", "/similar")), body=body)
    def send(path: str, body: bytes) -> None:
        if statuses.total() < count:
            statuses[ask(port, "POST", path, body)[0]] += 1

    send()
    rng = random.Random(0)
    while statuses.total() < count:  # where Hypothesis runs out of new ones
        statuses[ask(port, "POST", "/recommend", rng.randbytes(rng.randrange(200)))[0]] += 1
    return statuses


def ask(port: int, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    """One request: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


if __name__ == "__main__":
    main()
