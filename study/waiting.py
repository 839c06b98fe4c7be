"""Waits for a service that is away, for as long as a restart or a short outage takes, and no longer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from search_spaces import UserError

PATIENCE_SECONDS = 600.0
"""How long an outage may last before the run ends; the same command then continues."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0

Result = TypeVar("Result")
log = logging.getLogger(__name__)


def until_answered(call: Callable[[], Result], service: str, away: type[Exception]) -> Result:
    """What the call returns, which is repeated with growing pauses while it raises `away`.

    The call must be repeatable: an outage may begin after it was done and before that was heard.

    Raises:
        UserError: the service did not answer within PATIENCE_SECONDS.
    """
    began, pause, told = time.monotonic(), _FIRST_PAUSE_SECONDS, False
    while True:
        try:
            result = call()
        except away as error:
            reason = error
        else:
            if told:
                log.warning("%s answers again after %.0f s.", service, time.monotonic() - began)
            return result
        if not told:
            log.warning("%s does not answer (%s); the study waits for it.", service, reason)
            told = True
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise UserError(
                f"{service} must answer, but did not for {PATIENCE_SECONDS / 60:.0f} minutes ({reason}); all "
                "that was measured is in the ledger, so bring it back and give the same command again."
            ) from reason
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
