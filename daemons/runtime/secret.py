# SPDX-License-Identifier: Apache-2.0
"""Secrets that do not show themselves, and the forms in which options name authorization values."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from daemons.runtime.errors import DaemonError

AUTH_BYTES = 20
WELL_KNOWN = "well-known"
"""The authorization value that the TPM main specification fixes for "no secret": 20 zero bytes."""
CONFIGURED = "configured"

FILE_FORM = "file:"
"""What an authorization value begins with that is in a file."""

_HEX_AUTH = re.compile(r"[0-9a-fA-F]{40}", re.ASCII)
_FILE_LIMIT_BYTES = 4096


class Secret(bytes):
    """Bytes whose `repr` and `str` show only the length and whose comparison takes constant time.

    Slices and sums are plain bytes again.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Secret(<{len(self)} bytes>)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and hmac.compare_digest(bytes(self), bytes(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = bytes.__hash__


def parse_auth(text: str) -> Secret:
    """Return the authorization value that an option such as `--owner-auth` names.

    Forms: `well-known` (20 zero bytes), `hash:` and 40 hex digits, `text:` and a passphrase (its
    SHA-1 is the value), `file:` and the path of a file (at most 4096 bytes) whose one line is one
    of the other forms.

    Raises:
        DaemonError: the text has none of the forms or the file cannot be read; the message does not
        quote it.
    """
    return _parse_plain(*_read(text))


def parse_auth_option(text: str) -> Secret | None:
    """Return the value that an option names in the forms of `parse_auth`; None if it, or the file
    that it names, says `configured`: what a configuration says counts then.

    A service manager hands over a credential if there is one, and else this word.

    Raises:
        DaemonError: as `parse_auth`.
    """
    plain, where = _read(text)
    return None if plain == CONFIGURED else _parse_plain(plain, where)


def _read(text: str) -> tuple[str, str]:
    """Return what an option says or the line of the file that it names, and where that is from."""
    if not text.startswith(FILE_FORM):
        return text, "option"
    path = Path(text.removeprefix(FILE_FORM))
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise DaemonError(f"secret file {path}: {error.strerror}") from error
    if len(content) > _FILE_LIMIT_BYTES:
        raise DaemonError(f"secret file {path}: longer than {_FILE_LIMIT_BYTES} bytes")
    try:
        line = content.decode()
    except UnicodeDecodeError as error:
        raise DaemonError(f"secret file {path}: not UTF-8 text") from error
    return line.removesuffix("\n").removesuffix("\r"), f"secret file {path}"


def _parse_plain(text: str, where: str) -> Secret:
    form, colon, rest = text.partition(":")
    if text == WELL_KNOWN:
        return Secret(AUTH_BYTES)
    if form == "hash" and _HEX_AUTH.fullmatch(rest):
        return Secret(bytes.fromhex(rest))
    if form == "text" and colon:
        return Secret(hashlib.sha1(rest.encode()).digest())
    raise DaemonError(
        f"{where}: an authorization value is well-known, hash:<40 hex digits>, text:<passphrase> "
        "or file:<path>"
    )
