# SPDX-License-Identifier: Apache-2.0
"""Writing files for people: TOML text, and a file that is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from daemons.runtime.files import WriteFailed

TomlValue = bool | int | str | Sequence[str] | Sequence[int]
TomlTable = Mapping[str, TomlValue]


def toml_text(comment: str, keys: TomlTable, tables: Mapping[str, TomlTable]) -> str:
    """Return a TOML document.

    Args:
        comment: its first line.
        keys: bare keys (letters, digits, '_' and '-') at the top.
        tables: behind them, by bare name.
    """
    parts = [f"# {comment}\n"]
    parts += [f"{name} = {_value(value)}\n" for name, value in keys.items()]
    for table, values in tables.items():
        parts.append(f"\n[{table}]\n")
        parts += [f"{name} = {_value(value)}\n" for name, value in values.items()]
    return "".join(parts)


def _value(value: TomlValue) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            # A JSON string is a TOML basic string but for DEL, which TOML escapes too.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return "[" + ", ".join([_value(item) for item in value]) + "]"


def make_file(path: Path, content: str | bytes, mode: int) -> bool:
    """Make a file that is not there yet, durably, with all of its content at once.

    Args:
        content: text is written as UTF-8.

    Returns: False if there is one already, which is left as it is.

    Raises:
        WriteFailed: it may or may not be there.
    """
    # A name of its own: somebody else who makes the same file at the same moment must not write
    # into what is in place by then.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.unlink(missing_ok=True)  # of a crash
        _write_new(temporary, content, mode)
        try:
            # Unlike rename, link does not replace what somebody else has made meanwhile.
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteFailed(path, error, certain=False) from error
    return True


def remove_file(path: Path) -> bool:
    """Remove a file durably; False if there was none.

    Raises:
        WriteFailed: it may or may not be there.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WriteFailed(path, error, certain=False) from error
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteFailed(path, error, certain=False) from error
    return True


def _write_new(path: Path, content: str | bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(path, flags, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
