"""Serve a trained model over HTTP: lists, similar items, search, measures, and a page to try it on.

python -m experiments.serve --workdir=runs/a                  # http://127.0.0.1:8000, and /docs for the interface
python -m experiments.serve --workdir=exported/a --host=0.0.0.0 --port=80
curl -s http://127.0.0.1:8000/recommend -H 'Content-Type: application/json' -d '{"history": ["sku12"], "k": 5}'

Ctrl-C or SIGTERM ends it after the requests it has accepted are answered.
"""

import argparse
import gc
import signal
import socket
import sys
from collections.abc import Sequence

import diffrec_jax
from diffrec_jax.serving.recommender import HISTORIES
from experiments.settings import guard, own_class

MISSING = "the service needs FastAPI and uvicorn: pip install 'diffrec_jax[serve]'"
DRAIN_SECONDS = 30


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop; the exit code."""
    args = arguments().parse_args(argv[1:])
    try:
        import uvicorn

        from diffrec_jax.serving.service import Limits, create_app, warm_up
    except ImportError:
        raise ValueError(MISSING) from None
    limits = Limits(k=args.max_k, history=args.max_history, waiting=args.max_waiting)
    if min(limits.k, limits.history, limits.waiting) < 1:
        raise ValueError("--max_k, --max_history and --max_waiting must be at least 1")
    recommender = diffrec_jax.load(args.workdir, history=args.known, model=args.model or None)
    programs = warm_up(recommender, limits)
    gc.freeze()  # what is here stays: looking through it again would hold up requests for a tenth of a second
    try:
        listening = socket.create_server((args.host, args.port), backlog=1024)
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen on {args.host}:{args.port} ({error}): choose another --port") from None
    host, port = listening.getsockname()[:2]
    print(f"serving {args.workdir} on http://{host}:{port} ({programs} programs compiled)", flush=True)
    if host not in ("127.0.0.1", "::1"):
        print("it listens beyond this machine, without passwords or encryption: put a proxy before it", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it caught again, once it has drained
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        create_app(recommender, limits),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])
    print("stopped; every accepted request was answered", flush=True)
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.serve", description=__doc__, formatter_class=usage)
    parser.add_argument("--workdir", required=True, help="a run folder, or an exported model folder")
    own_class.add_flag(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine only by default")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--known", choices=HISTORIES, default="train", help="what a known user's history holds")
    parser.add_argument("--max_k", type=int, default=200, help="longest list")
    parser.add_argument("--max_history", type=int, default=1000, help="longest history")
    parser.add_argument("--max_waiting", type=int, default=512, help="requests that may wait; more are answered 503")
    return parser


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
