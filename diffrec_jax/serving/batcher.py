"""Requests that arrive together become one call on the device.

While the device is busy, new questions wait; when it is free, all that wait (up to ``max_batch``) go in one call. A
lonely question waits for nobody. What would wait behind ``max_waiting`` others is refused at once, so that the queue
never grows without bound.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from diffrec_jax.types import Carried

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class OverloadedError(RuntimeError):
    """Too many questions wait already."""


class MicroBatcher(Generic[Question, Answer]):
    """Batches the questions of one event loop."""

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], Sequence[Answer | Exception]],
        *,
        max_batch: int = 64,
        max_waiting: int = 512,
        observe: Callable[[int], object] | None = None,
    ) -> None:
        """Remember how questions are answered.

        Args:
          answer: answers many questions at once, on a thread of its own; an exception among the answers is raised
            for the one who asked.
          max_batch: questions per call.
          max_waiting: questions that may wait.
          observe: is told the size of every batch.
        """
        self._answer, self.max_batch, self.max_waiting = answer, max_batch, max_waiting
        self._observe = observe
        self._waiting: collections.deque[tuple[Question, asyncio.Future[Answer]]] = collections.deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Questions that wait now."""
        return len(self._waiting)

    async def ask(self, question: Question) -> Answer:
        """The answer to one question.

        Raises:
          OverloadedError: if too many wait already.
        """
        if len(self._waiting) >= self.max_waiting:
            raise OverloadedError(f"{len(self._waiting)} questions wait already")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def run(self, function: Callable[[], Carried]) -> Carried:
        """Run something else on the device's thread, in turn."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _work(self) -> None:
        """Answer until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.max_batch))]
            batch = [(question, future) for question, future in batch if not future.cancelled()]
            if not batch:
                continue
            if self._observe is not None:
                self._observe(len(batch))
            answers: Sequence[Answer | Exception]
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, [question for question, _ in batch])
            except Exception as error:  # a defect: everybody in the batch learns of it, nobody waits forever
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def close(self) -> None:
        """Let the thread finish what it has begun."""
        self._thread.shutdown(wait=True)
