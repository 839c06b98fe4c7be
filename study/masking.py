"""Passwords in addresses of databases and servers: kept out of what is shown or written."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote

HIDDEN = "***"
PASSWORDS = (
    "PGPASSWORD",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
"""Environment variables whose value is a secret as it stands."""

OPTIONS = {
    "--optuna-storage": "STUDY_OPTUNA_STORAGE",
    "--storage-path": "STUDY_STORAGE_PATH",
    "--tracking-uri": "MLFLOW_TRACKING_URI",
}
"""Options that take an address, and the variable that stands for each."""

_SHORTEST = 4
"""Characters of a secret that is hidden wherever it stands; a shorter one would blot out ordinary words."""


def masked(address: str) -> str:
    """An address without user, password and options: "postgresql://***@host/optuna?***"."""
    shown = re.sub(r"^([\w+.\-]+://)?.*@", rf"\1{HIDDEN}@", address, flags=re.DOTALL)
    return re.sub(r"\?.*", f"?{HIDDEN}", shown, flags=re.DOTALL) if "://" in address else shown


def holds_secret(address: str) -> bool:
    """Whether an address must not be shown as it stands."""
    return any(_secrets(address))


def scrubbed(text: str, *addresses: str) -> str:
    """A library's message without the secrets of these addresses and of the environment."""
    for address in addresses:
        text = text.replace(address, masked(address))
    secrets = {secret for address in addresses for secret in _secrets(address)}
    secrets |= {value for name in PASSWORDS if (value := os.environ.get(name))}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    return text


def _secrets(address: str) -> Iterator[str]:
    """Password and values of options, as they stand and as they are meant (%40 is @)."""
    body, _, options = address.partition("://")[2].partition("?")
    quoted = [pair.partition("=")[2] for pair in options.split("&")]
    found = re.match(r"[^:]*:(.*)@", body, flags=re.DOTALL)
    if found is not None:
        quoted.append(found[1])
    for secret in filter(None, quoted):
        yield from (secret, unquote(secret))


def keep_off_the_process_list() -> None:
    """Starts this program again when its command line holds a password, with the address in the environment.

    All users of a machine can read its command lines, and Ray shows the driver's to all who see its cluster.
    """
    arguments = sys.argv[1:]
    if sys.orig_argv[-len(arguments) :] != arguments:
        return  # called by another program, whose command line is its own affair
    kept, variables = split(arguments)
    if variables:
        command = [sys.executable, *sys.orig_argv[1 : -len(arguments)], *kept]
        os.execve(sys.executable, command, {**os.environ, **variables})


def split(arguments: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    """The arguments without addresses that hold a secret, and those as environment variables."""
    kept: list[str] = []
    variables: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        option, equals, value = argument.partition("=")
        if option in OPTIONS and (equals or waiting):
            value = value if equals else waiting.pop(0)
            if holds_secret(value):
                variables[OPTIONS[option]] = value
            else:
                kept += [argument] if equals else [argument, value]
        else:
            kept.append(argument)
    return kept, variables
