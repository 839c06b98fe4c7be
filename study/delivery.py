"""One thread that does calls in order and waits out an outage, so that the caller never waits."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

ATTEMPTS = 3
"""A call that fails so often although the service answers is given up."""

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
_CLOSING_WAIT_SECONDS = 0.5
_log = logging.getLogger(__name__)


class Delivery:
    """A queue of calls and the thread that does them.

    Calls must be repeatable: one that fails half way is done again from its beginning. While `answers()`
    is false the queue is kept and retried with growing pauses, for as long as it takes.
    """

    def __init__(self, service: str, answers: Callable[[], bool]) -> None:
        self._service = service
        self._answers = answers
        self._calls: deque[tuple[str, Callable[[], None]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._stopped = False
        # A daemon: a process that ends without close() must not hang on a service that is away.
        self._thread = threading.Thread(target=self._work, name=f"delivery to {service}", daemon=True)
        self._thread.start()

    def put(self, subject: str, call: Callable[[], None]) -> None:
        """Queue a call; `subject` names it in the log. Returns at once."""
        with self._changed:
            if self._closing:
                raise RuntimeError(f"{subject}: the delivery to {self._service} is closed")
            self._calls.append((subject, call))
            self._changed.notify_all()

    def close(self, timeout: float) -> int:
        """Deliver what is queued for at most `timeout` seconds; the number of calls that are left."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._calls, timeout)
            self._stopped = True
            self._changed.notify_all()
            return len(self._calls)

    def _work(self) -> None:
        while (queued := self._next()) is not None:
            if self._deliver(*queued):
                with self._changed:
                    self._calls.popleft()
                    self._changed.notify_all()

    def _next(self) -> tuple[str, Callable[[], None]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._closing)
            return None if self._stopped or not self._calls else self._calls[0]

    def _deliver(self, subject: str, call: Callable[[], None]) -> bool:
        """Whether the call is dealt with; False when delivery was stopped during an outage."""
        failures, wait, away = 0, _FIRST_WAIT_SECONDS, False
        while True:
            try:
                call()
            except Exception as error:  # whatever a client library raises must not end the thread
                reason = reason_of(error)
            else:
                if away:
                    _log.info("%s answers again.", self._service)
                return True
            if self._answers():
                failures, wait = failures + 1, _FIRST_WAIT_SECONDS
                if failures == ATTEMPTS:
                    _log.warning("%s did not accept %s (%s); skipped.", self._service, subject, reason)
                    return True
            elif not away:
                away = True
                _log.warning(
                    "%s does not answer (%s); events are kept and sent later.", self._service, reason
                )
            if self._stopped_within(wait if not failures else 0.05):
                return False
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _stopped_within(self, seconds: float) -> bool:
        """Pause between attempts; cut short when closing begins, so that a last attempt is made."""
        with self._changed:
            closing = self._closing
            seconds = min(seconds, _CLOSING_WAIT_SECONDS) if closing else seconds
            self._changed.wait_for(lambda: self._stopped or self._closing != closing, seconds)
            return self._stopped


def reason_of(error: BaseException) -> str:
    """The operating system's reason if there is one ("Connection refused"), else the client's first line."""
    reason = error
    inner: BaseException | None = error
    while inner is not None:
        reason = inner if isinstance(inner, OSError) else reason
        inner = inner.__cause__ or inner.__context__
    text = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return text if len(text) <= 200 else f"{text[:200]}..."
