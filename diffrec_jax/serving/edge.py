"""The outermost layer of the service: limits bodies while they arrive, measures, never answers without a sentence."""

import logging
import time
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Edge:
    """ASGI middleware.

    A body of more than ``most`` bytes is answered 413, whatever its header says; a defect of ours is logged and
    answered 500; every answer is reported to ``record(path, status, seconds)``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        most: int,
        refuse: Callable[[int, str], Response],
        record: Callable[[str, int, float], None],
    ) -> None:
        self.app, self.most, self.refuse, self.record = app, most, refuse, record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        received, status = 0, 0
        instead: Response | None = None

        async def counted() -> Message:
            nonlocal received, instead
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most and status == 0:
                instead = self.refuse(413, f"the body may hold at most {self.most:,} bytes")
                return {"type": "http.request", "body": b"", "more_body": False}
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if instead is not None:
                return  # what the application makes of half a body is nobody's answer
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except Exception:
            logging.getLogger(__name__).exception("%s %s", scope["method"], scope["path"])
            if status == 0 and instead is None:
                instead = self.refuse(500, "something is wrong on the server; it has been logged")
        if instead is not None and status == 0:
            status = instead.status_code
            await instead(scope, receive, send)
        self.record(scope["path"], status, time.perf_counter() - started)
