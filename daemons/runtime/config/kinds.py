# SPDX-License-Identifier: Apache-2.0
"""The kinds of values that keys have."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from daemons.runtime.config.endpoints import MAX_ENDPOINTS, TcpEndpoint, parse_endpoint
from daemons.runtime.config.schema import Kind
from daemons.runtime.config.values import (
    NV_INDEX_FIRST,
    NV_INDEX_LAST,
    LocalityRule,
    check_nv_index,
    parse_locality_rules,
    parse_mode,
    parse_pcrs,
)
from daemons.runtime.log import Level
from daemons.runtime.secret import WELL_KNOWN

E = TypeVar("E", bound=enum.Enum)
T = TypeVar("T")

UIDS_LIMIT: Final = 64

LABEL_LIMIT: Final = 127
"""Characters; Xen's manager cuts longer labels there, so two could become one. Here they are
refused.
"""
ID_LAST: Final = 2**32 - 2
"""Of users and groups; the one above means "none" to the kernel."""

_FILE: Final = "file:"


def _refusal(form: str, value: object) -> ValueError:
    return ValueError(f"must be {form}, not {_shown(value)}")


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _refusal(BOOL.form, value)
    return value


def _show_bool(value: bool) -> str:
    return "true" if value else "false"


BOOL: Final = Kind("true or false", _read_bool, _show_bool)


def integer(first: int, last: int) -> Kind[int]:
    """Return the kind of whole numbers within bounds."""
    form = f"a number from {first} to {last}"

    def read(value: object) -> int:
        # bool is an int to Python, not to the reader of the file
        if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
            raise _refusal(form, value)
        return value

    return Kind(form, read, str)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Return the kind of values that may be left out; nothing that is written stands for that."""

    def show(value: T | None) -> str:
        return "none" if value is None else kind.show(value)

    return Kind(kind.form, kind.read, show)


def choice(members: type[E]) -> Kind[E]:
    """Return the kind of words that name the members of an enumeration."""
    return _words({str(member.value): member for member in members})


def _words(words: dict[str, T]) -> Kind[T]:
    quoted = [f'"{word}"' for word in words]
    form = f"{', '.join(quoted[:-1])} or {quoted[-1]}"

    def read(value: object) -> T:
        if not isinstance(value, str) or value not in words:
            raise _refusal(form, value)
        return words[value]

    def show(value: T) -> str:
        (word,) = (word for word, member in words.items() if member == value)
        return f'"{word}"'

    return Kind(form, read, show)


LEVEL: Final = _words({level.name.lower(): level for level in reversed(Level)})


def _text(form: str, parse: Callable[[str], T], show: Callable[[T], str]) -> Kind[T]:
    """Return a kind of strings with a language of their own."""

    def read(value: object) -> T:
        if not isinstance(value, str):
            raise _refusal(form, value)
        return parse(value)

    def show_quoted(value: T) -> str:
        return json.dumps(show(value))

    return Kind(form, read, show_quoted)


def _parse_uuid(text: str) -> UUID:
    try:
        uuid = UUID(text)
    except ValueError:
        raise ValueError(f"{text!r} is no uuid") from None
    if str(uuid) != text.lower():
        raise ValueError(f"{text!r} must be written as {uuid}")
    return uuid


UUID_TEXT: Final = _text("a uuid, 36 characters", _parse_uuid, str)


def _parse_label(text: str) -> str:
    if not 1 <= len(text) <= LABEL_LIMIT or not text.isascii() or not text.isprintable():
        raise _refusal(LABEL.form, text)
    return text


LABEL: Final = _text(f"1 to {LABEL_LIMIT} printable ASCII characters", _parse_label, str)


def _parse_pcr_list(text: str) -> frozenset[int]:
    return parse_pcrs((text,))


def show_pcrs(pcrs: frozenset[int]) -> str:
    """Return a PCR list for PCRs: ranges where there are any, `none` for the empty one."""
    parts: list[str] = []
    for pcr in sorted(pcrs):
        if pcr - 1 in pcrs:
            first = parts[-1].partition("-")[0]
            parts[-1] = f"{first}-{pcr}"
        else:
            parts.append(str(pcr))
    return ",".join(parts) or "none"


PCRS: Final = _text("a list of PCRs: all, none, N, X-Y, with commas", _parse_pcr_list, show_pcrs)


def _show_mode(mode: int) -> str:
    return f"{mode:04o}"


MODE: Final = _text('permissions in octal, such as "0660"', parse_mode, _show_mode)


def _read_nv_index(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refusal(NV_INDEX.form, value)
    return check_nv_index(value)


def _show_nv_index(index: int) -> str:
    return f"{index:#010x}"


NV_INDEX: Final = Kind(
    f"a number from {NV_INDEX_FIRST:#x} to {NV_INDEX_LAST:#x}", _read_nv_index, _show_nv_index
)


def _read_auth(value: object) -> str:
    # The file may be read by everybody; and the value is not quoted, for it may be a secret.
    if isinstance(value, str) and (value == WELL_KNOWN or value.startswith(f"{_FILE}/")):
        return value
    raise ValueError(f"must be {AUTH.form}; a secret itself has no place here")


AUTH: Final[Kind[str]] = Kind(
    f'"{WELL_KNOWN}" or "{_FILE}" and an absolute path', _read_auth, json.dumps
)


def _read_localities(value: object) -> tuple[LocalityRule, ...]:
    if not isinstance(value, list) or not all(isinstance(rule, str) for rule in value):
        raise _refusal(LOCALITIES.form, value)
    return parse_locality_rules(value)


def _show_localities(rules: Sequence[LocalityRule]) -> str:
    texts = [f"{rule.label}={','.join(map(str, sorted(rule.localities)))}" for rule in rules]
    return json.dumps(texts)


LOCALITIES: Final[Kind[tuple[LocalityRule, ...]]] = Kind(
    'a list of strings "LABEL=N[,N...]", at most 16', _read_localities, _show_localities
)


def _read_endpoints(value: object) -> tuple[TcpEndpoint, ...]:
    # A port alone may be written as a number; bool is one to Python only.
    if (
        not isinstance(value, list)
        or len(value) > MAX_ENDPOINTS
        or not all(type(one) in (int, str) for one in value)
    ):
        raise _refusal(ENDPOINTS.form, value)
    return tuple([parse_endpoint(str(one)) for one in value])


def _show_endpoints(endpoints: Sequence[TcpEndpoint]) -> str:
    return json.dumps([str(endpoint) for endpoint in endpoints])


ENDPOINTS: Final[Kind[tuple[TcpEndpoint, ...]]] = Kind(
    f'a list of ports or strings "[ADDRESS:]PORT[=LOCALITY]", at most {MAX_ENDPOINTS}',
    _read_endpoints,
    _show_endpoints,
)


def _read_uids(value: object) -> frozenset[int]:
    if (
        not isinstance(value, list)
        or len(value) > UIDS_LIMIT
        or not all(type(uid) is int and 0 <= uid <= ID_LAST for uid in value)
    ):
        raise _refusal(UIDS.form, value)
    return frozenset(value)


def _show_uids(uids: frozenset[int]) -> str:
    return json.dumps(sorted(uids))


UIDS: Final[Kind[frozenset[int]]] = Kind(
    f"a list of at most {UIDS_LIMIT} user numbers", _read_uids, _show_uids
)


def _parse_path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise _refusal(PATH.form, text)
    return path


PATH: Final = _text("an absolute path", _parse_path, str)
