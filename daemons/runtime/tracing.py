# SPDX-License-Identifier: Apache-2.0
"""What daemons tell those who watch a TPM's commands: the lines of the verb "trace".

A vtpm tells each command with its response (`TracedCommand`), without their secrets. It knows the
front that a command came from, and not the front's clients. A tpmfront tells for each of its
commands whose it was, and nothing of what is in it (`ClientSpan`). Both have the time of the same
clock, CLOCK_MONOTONIC of this boot, and a front has at most one command at its vtpm: so the command
that a vtpm has ended in a client's span is that client's.

Whoever is too slow to take the lines is told how many it missed, by `{"dropped": 12}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from daemons.runtime.control import Fields, Json
from daemons.runtime.errors import DaemonError
from tpmcore.engine import Description, Field, SessionUse

TRACE: Final = "trace"
"""The verb."""
DROPPED: Final = "dropped"
"""Key of a line that says how many others are missing."""
BATCH: Final = 4
"""So many lines are made at a time: each takes 30 us of the event loop, the longest 250 us."""


@dataclass(frozen=True, slots=True)
class FrontIdentity:
    """The front that a command came from.

    Attributes:
        pid, uid: of its process.
        label: what stands in for its XSM label.
        device: number of its connection.
    """

    pid: int
    uid: int
    label: str
    device: int


@dataclass(frozen=True, slots=True)
class TracedCommand:
    """A command that a vtpm has answered.

    Attributes:
        description: what it was.
        locality: that it had.
        front: None: the vtpm sent it to its TPM itself.
        unix_time: when it was answered, in seconds.
        ended_ns: the same, by the monotonic clock.
        duration_us: from when it was taken to when its response could leave.
    """

    description: Description
    locality: int
    front: FrontIdentity | None
    unix_time: float
    ended_ns: int
    duration_us: float

    def fields(self) -> Fields:
        """Return its line."""
        description, front = self.description, self.front
        return {
            "command": description.command,
            "code": description.code,
            "parameters": field_object(description.parameters),
            "results": field_object(description.results),
            "sessions": session_list(description.sessions),
            "shown_command": description.shown_command.hex(),
            "shown_response": description.shown_response.hex(),
            "locality": self.locality,
            "front": None
            if front is None
            else {
                "pid": front.pid,
                "uid": front.uid,
                "label": front.label,
                "device": front.device,
            },
            "unix_time": self.unix_time,
            "ended_ns": self.ended_ns,
            "duration_us": self.duration_us,
        }

    @classmethod
    def parse(cls, fields: Fields) -> TracedCommand:
        """Take a line.

        Raises:
            DaemonError: it is none.
        """
        match fields:
            case {
                "command": str(command),
                "code": str(code),
                "parameters": dict(parameters),
                "results": dict(results),
                "sessions": list(sessions),
                "shown_command": str(shown_command),
                "shown_response": str(shown_response),
                "locality": int(locality),
                "front": front,
                "unix_time": float(unix_time),
                "ended_ns": int(ended_ns),
                "duration_us": float(duration_us),
            }:
                return cls(
                    Description(
                        command,
                        code,
                        _fields_of(parameters),
                        _fields_of(results),
                        _sessions_of(sessions),
                        _bytes_of(shown_command),
                        _bytes_of(shown_response),
                    ),
                    locality,
                    _front_of(front),
                    unix_time,
                    ended_ns,
                    duration_us,
                )
            case _:
                raise _other_version()


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """A client of a front.

    Attributes:
        connection: number of its connection.
        pid, uid: of the process that connected; None over TCP, which does not tell.
        address: and port, of a client over TCP; else None.
    """

    connection: int
    pid: int | None
    uid: int | None
    address: str | None

    def fields(self) -> dict[str, Json]:
        """Return it as a JSON object."""
        return {
            "connection": self.connection,
            "pid": self.pid,
            "uid": self.uid,
            "address": self.address,
        }

    @classmethod
    def parse(cls, fields: Json) -> ClientIdentity:
        """Take one.

        Raises:
            DaemonError: it is none.
        """
        match fields:
            case {
                "connection": int(connection),
                "pid": int() | None as pid,
                "uid": int() | None as uid,
                "address": str() | None as address,
            }:
                return cls(connection, pid, uid, address)
            case _:
                raise _other_version()


@dataclass(frozen=True, slots=True)
class ClientSpan:
    """A time in which a front had at most one command at its vtpm.

    Attributes:
        client: whose; None: nobody whom the front knows.
        after_ns: when the command before had its response.
        until_ns: when this one had its.
    """

    client: ClientIdentity | None
    after_ns: int
    until_ns: int

    def fields(self) -> Fields:
        """Return its line."""
        client = self.client
        return {
            "client": None if client is None else client.fields(),
            "after_ns": self.after_ns,
            "until_ns": self.until_ns,
        }

    @classmethod
    def parse(cls, fields: Fields) -> ClientSpan:
        """Take a line.

        Raises:
            DaemonError: it is none.
        """
        match fields:
            case {"client": client, "after_ns": int(after_ns), "until_ns": int(until_ns)}:
                identity = None if client is None else ClientIdentity.parse(client)
                return cls(identity, after_ns, until_ns)
            case _:
                raise _other_version()


def _other_version() -> DaemonError:
    return DaemonError("the daemon is of another version: its trace is not understood")


def field_object(fields: Sequence[Field]) -> dict[str, Json]:
    """Return fields as a JSON object, in their order."""
    return {
        field.name: field.value if isinstance(field.value, str) else field_object(field.value)
        for field in fields
    }


def session_list(sessions: Sequence[SessionUse]) -> list[Json]:
    """Return sessions as a JSON list, in their order."""
    return [{"handle": one.handle, "continues": one.continues} for one in sessions]


def _fields_of(fields: Fields) -> tuple[Field, ...]:
    made = []
    for name, value in fields.items():
        match value:
            case str():
                made.append(Field(name, value))
            case dict():
                made.append(Field(name, _fields_of(value)))
            case _:
                raise _other_version()
    return tuple(made)


def _sessions_of(sessions: Sequence[Json]) -> tuple[SessionUse, ...]:
    made = []
    for one in sessions:
        match one:
            case {"handle": str(handle), "continues": bool(continues)}:
                made.append(SessionUse(handle, continues))
            case _:
                raise _other_version()
    return tuple(made)


def _bytes_of(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise _other_version() from error


def _front_of(front: Json) -> FrontIdentity | None:
    match front:
        case None:
            return None
        case {"pid": int(pid), "uid": int(uid), "label": str(label), "device": int(device)}:
            return FrontIdentity(pid, uid, label, device)
        case _:
            raise _other_version()
