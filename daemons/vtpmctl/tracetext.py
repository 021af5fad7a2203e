# SPDX-License-Identifier: Apache-2.0
"""A traced command as a line of text, as a JSON object, and as packets of a capture file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from daemons.runtime.control import Json
from daemons.runtime.tracing import ClientIdentity, field_object, session_list
from daemons.vtpmctl.attribution import Attributed
from daemons.vtpmctl.pcapng import Capture
from tpmcore.engine import Field

NAMES_LIMIT: Final = 4096
"""Of clients whose names are remembered; a tcsd over a Unix socket may be one for each command."""
_ITSELF: Final = "vtpm"
"""Who sent what came from no front."""


class ProcessNames:
    """Names of clients' processes, looked up when a client is first seen: it may soon be gone."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._known: dict[ClientIdentity, str] = {}

    def name(self, client: ClientIdentity) -> str:
        """Return the name of a client's process, "?" if nobody knows."""
        # Taken out and put in behind the others: the first one is that of the longest ago.
        known = self._known.pop(client, None)
        if known is None:
            if client.pid is None:
                return "?"
            try:
                found = (self._proc / str(client.pid) / "comm").read_text(errors="replace")
            except OSError:
                found = ""
            if len(self._known) >= NAMES_LIMIT:
                del self._known[next(iter(self._known))]
            known = _printable(found.strip()) or "?"
        self._known[client] = known
        return known


def who(one: Attributed, names: ProcessNames) -> str:
    """Say whose a command was: "tcsd[4711]#3", by process and connection; by address, or the
    front's, where that is all that is known."""
    client, front = one.client, one.traced.front
    if client is not None and client.address is not None:
        return f"{client.address}#{client.connection}"
    if client is not None:
        return f"{names.name(client)}[{client.pid}]#{client.connection}"
    return _ITSELF if front is None else f"front[{front.pid}]"


def line(one: Attributed, names: ProcessNames) -> str:
    """Return a line for people: time, whose, locality, command, result, time taken."""
    traced = one.traced
    description = traced.description
    whole_s, rest_s = divmod(traced.unix_time, 1)
    clock = time.strftime("%H:%M:%S", time.localtime(whole_s))
    asked = " ".join([description.command, *_words(description.parameters), *_sessions(one)])
    told = " ".join([description.code, *_words(description.results)])
    return _printable(
        f"{clock}.{int(rest_s * 1e6):06} {who(one, names)} locality {traced.locality}: "
        f"{asked} -> {told}, {_took(traced.duration_us)}"
    )


def json_object(one: Attributed, names: ProcessNames, guest: str) -> dict[str, Json]:
    """Return everything that is known, in the form of docs/operating.md."""
    traced, client, front = one.traced, one.client, one.traced.front
    description = traced.description
    return {
        "guest": guest,
        "unix_time": round(traced.unix_time, 6),
        "command": description.command,
        "parameters": field_object(description.parameters),
        "sessions": session_list(description.sessions),
        "result": description.code,
        "response": field_object(description.results),
        "duration_us": round(traced.duration_us, 1),
        "locality": traced.locality,
        "client": None
        if client is None
        else {
            **client.fields(),
            "process": None if client.pid is None else names.name(client),
        },
        "front": None
        if front is None
        else {"pid": front.pid, "uid": front.uid, "label": front.label, "device": front.device},
    }


def packets(capture: Capture, one: Attributed, names: ProcessNames) -> bytes:
    """Return what a command and its response add to a capture file."""
    traced, description = one.traced, one.traced.description
    asked = " ".join([description.command, *_words(description.parameters), *_sessions(one)])
    told = " ".join([description.code, *_words(description.results)])
    flow = one.client or (None if traced.front is None else traced.front)
    return capture.packets(
        flow,
        (
            description.shown_command,
            traced.unix_time - traced.duration_us / 1e6,
            _printable(f"{who(one, names)} locality {traced.locality}: {asked}"),
        ),
        (
            description.shown_response,
            traced.unix_time,
            _printable(f"{told}, {_took(traced.duration_us)}"),
        ),
    )


def _words(fields: Sequence[Field]) -> Iterator[str]:
    for field in fields:
        if isinstance(field.value, str):
            yield f"{field.name}={field.value}"
        else:
            yield f"{field.name}={{{' '.join(_words(field.value))}}}"


def _sessions(one: Attributed) -> Iterator[str]:
    for session in one.traced.description.sessions:
        yield f"session={session.handle}{'+' if session.continues else ''}"


def _took(duration_us: float) -> str:
    if duration_us < 1000:
        return f"{duration_us:.1f}us"
    return f"{duration_us / 1e3:.1f}ms" if duration_us < 1e6 else f"{duration_us / 1e6:.2f}s"


def _printable(text: str) -> str:
    """A name is what somebody else chose: it must not redraw the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
