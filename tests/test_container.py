"""What the container's files name is there; building them takes a builder, which tests have none of."""

import re
from pathlib import Path

from experiments import serve

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "container" / "Dockerfile").read_text()


def test_it_copies_what_is_there_and_what_the_context_lets_through():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (.*)", DOCKERFILE, re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists() and source in allowed, source
    extras = re.search(r"ARG EXTRAS=(\S+)", DOCKERFILE)[1].split(",")
    assert all(f"\n{extra} =\n" in (ROOT / "setup.cfg").read_text() for extra in (*extras, "cuda"))


def test_it_serves_as_nobody_in_particular_and_says_whether_it_is_well():
    user = DOCKERFILE.index("\nUSER diffrec")
    assert "USER root" not in DOCKERFILE and user < DOCKERFILE.index("ENTRYPOINT")
    assert "HEALTHCHECK" in DOCKERFILE and "/health" in DOCKERFILE
    assert not re.search(r"^FROM \S+:latest|^FROM [^:\s]+\s*$", DOCKERFILE, re.M)


def test_its_command_is_one_that_serve_understands():
    words = re.search(r"ENTRYPOINT (\[.*\])", DOCKERFILE)[1]
    flags = [word.strip(' "') for word in words.strip("[]").split(",")]
    assert flags[:2] == ["diffrec-jax", "serve"]
    args = serve.arguments().parse_args(flags[2:])
    assert (args.workdir, args.host, args.port) == ("/model", "0.0.0.0", 8000)


def test_prometheus_asks_the_port_that_is_served():
    asked = (ROOT / "container" / "prometheus.yml").read_text()
    compose = (ROOT / "container" / "compose.yaml").read_text()
    assert "recommender:8000" in asked and "\n  recommender:\n" in compose and "prom/prometheus:v" in compose
