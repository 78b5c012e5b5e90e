"""How far a round's work gets in the time it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

_SHARE = 0.25
"""Of the time left, the share that the next chunk of steps may take: work ends close before the time, not after it."""


class Pace:
    """Cuts a round's steps into chunks and stops when the time is up; without `seconds` all steps are done.

    The first chunk is one step, which is always done: a silo however slow contributes something. Where the cuts fall
    does not change what the steps compute. Used for one round.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self.done = 0
        """Steps done so far."""

    def chunks(self, steps: int, most: int | None = None) -> Iterator[tuple[int, int]]:
        """First and last-plus-one step of each chunk; done when the next is asked for.

        With `most` none crosses a multiple of it.
        """
        started = self._clock()
        largest = steps if most is None else most
        size = largest if self._seconds is None else 1
        while self.done < steps:
            before = self._clock()
            end = min(steps, self.done + size, (self.done // largest + 1) * largest)
            yield self.done, end
            count, self.done = end - self.done, end
            if self._seconds is None:
                continue
            now = self._clock()
            left = self._seconds - (now - started)
            if left <= 0:
                return
            a_step = max((now - before) / count, 1e-9)
            # The first step of a graph includes its making; growing by steps keeps that from being taken for the rest.
            size = max(1, min(2 * count, int(_SHARE * left / a_step)))
