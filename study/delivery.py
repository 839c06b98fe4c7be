"""One thread that does calls in order and waits out an outage, so that the caller never waits."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator

ATTEMPTS = 3
"""A call that the service refuses so often is given up."""

DISTURBED_ATTEMPTS = 8
"""A call on which the line breaks so often, although the service answers in between, is given up too."""

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
_CLOSING_WAIT_SECONDS = 0.5
_REFUSED_WAIT_SECONDS = 0.05
_log = logging.getLogger(__name__)


def reason_of(error: BaseException) -> str:
    """The operating system's reason if there is one ("Connection refused"), else the client's first line."""
    reason = [error, *(inner for inner in chain(error) if isinstance(inner, OSError))][-1]
    text = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return text if len(text) <= 200 else f"{text[:200]}..."


def is_disturbance(error: BaseException) -> bool:
    """Whether a lost or silent connection is behind an error."""
    return any(isinstance(inner, ConnectionError | TimeoutError) for inner in chain(error))


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = inner.__cause__ or inner.__context__


class Delivery:
    """A queue of calls and the thread that does them.

    Calls must be repeatable: one that fails half way is done again from its beginning. While `answers()`
    is false the queue is kept and retried with growing pauses, for as long as it takes.

    Args:
        disturbed: whether an error came from the line or a service in trouble, rather than from the call.
        reason: how an error is worded in the log.
    """

    def __init__(
        self,
        service: str,
        answers: Callable[[], bool],
        *,
        disturbed: Callable[[Exception], bool] = is_disturbance,
        reason: Callable[[Exception], str] = reason_of,
    ) -> None:
        self._service = service
        self._answers = answers
        self._disturbed = disturbed
        self._reason = reason
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
        refused, broken, wait, away = 0, 0, _FIRST_WAIT_SECONDS, False
        while True:
            try:
                call()
            except Exception as error:  # whatever a client library raises must not end the thread
                reason, disturbed = self._reason(error), self._disturbed(error)
            else:
                if away:
                    _log.warning("%s answers again.", self._service)
                return True
            if not self._answers():
                refused = broken = 0
                if not away:
                    away = True
                    _log.warning(
                        "%s does not answer (%s); events are kept and sent later.", self._service, reason
                    )
            else:
                refused, broken = refused + (not disturbed), broken + disturbed
                if refused == ATTEMPTS or broken == DISTURBED_ATTEMPTS:
                    _log.warning("%s did not accept %s (%s); skipped.", self._service, subject, reason)
                    return True
            if self._stopped_within(_REFUSED_WAIT_SECONDS if refused else wait):
                return False
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _stopped_within(self, seconds: float) -> bool:
        """Pause between attempts; cut short when closing begins, so that a last attempt is made."""
        with self._changed:
            closing = self._closing
            seconds = min(seconds, _CLOSING_WAIT_SECONDS) if closing else seconds
            self._changed.wait_for(lambda: self._stopped or self._closing != closing, seconds)
            return self._stopped
