# SPDX-License-Identifier: Apache-2.0
"""What hostile code in place of a guest's vTPM tries; runs in the sandbox of its unit.

    python probe.py NAME=ACTION:ARGUMENT...

Actions: `read` a file, `list` a folder, `write` a file, `connect` to a socket, `listen` at a path,
`run` a program, `claim` a uuid at a manager ("PATH,UUID"). Prints one line NAME=allowed or
NAME=refused for each.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import trio

from protocol.tpmif.errors import TpmifError
from protocol.tpmif.unix import open_frontend

_ANSWER_LIMIT_S = 60.0


def read(argument: str) -> None:
    """Read a file."""
    Path(argument).read_bytes()


def list_folder(argument: str) -> None:
    """See what is in a folder."""
    if not os.listdir(argument):
        raise FileNotFoundError(argument)


def write(argument: str) -> None:
    """Make a file."""
    Path(argument).write_bytes(b"probe")


def connect(argument: str) -> None:
    """Connect to a socket of either kind."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as client:
            try:
                client.connect(argument)
            except OSError as error:
                if kind == socket.SOCK_SEQPACKET or error.errno != 91:  # EPROTOTYPE: the other one
                    raise
            else:
                return


def listen(argument: str) -> None:
    """Be found by others at a path."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(argument)
        listener.listen()


def internet(argument: str) -> None:
    """Reach a port of this machine."""
    with socket.create_connection(("127.0.0.1", int(argument)), timeout=_ANSWER_LIMIT_S):
        pass


def run(argument: str) -> None:
    """Run a program."""
    subprocess.run([argument], check=True, stdout=subprocess.DEVNULL)


def claim(argument: str) -> None:
    """Be a vTPM at the manager."""
    path, _, uuid = argument.partition(",")

    async def handshake() -> None:
        with trio.fail_after(_ANSWER_LIMIT_S):
            async with open_frontend(path, uuid=UUID(uuid)):
                pass

    trio.run(handshake)


ACTIONS = {
    "read": read,
    "list": list_folder,
    "write": write,
    "connect": connect,
    "listen": listen,
    "internet": internet,
    "run": run,
    "claim": claim,
}


def main() -> None:
    """Try everything; the reason of a refusal goes to standard error."""
    for word in sys.argv[1:]:
        name, _, what = word.partition("=")
        action, _, argument = what.partition(":")
        try:
            ACTIONS[action](argument)
            outcome = "allowed"
        except (OSError, TpmifError, subprocess.CalledProcessError, trio.TooSlowError) as error:
            sys.stderr.write(f"{name}: {type(error).__name__}: {error}\n")
            outcome = "refused"
        sys.stdout.write(f"{name}={outcome}\n")


if __name__ == "__main__":
    main()
