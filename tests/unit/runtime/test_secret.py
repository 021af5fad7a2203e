# SPDX-License-Identifier: Apache-2.0
"""Secrets do not show themselves, and options name authorization values in four forms."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.secret import Secret, parse_auth, parse_auth_option


def test_a_secret_shows_only_its_length() -> None:
    secret = Secret(b"hunter2")
    lines: list[str] = []
    Log("test", sink=lines.append).info("made", secret=secret, inside=[secret], plain=b"hunter2")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", repr([secret]), *lines]
    assert not any("hunter2" in text for text in shown)
    assert all("7" in text for text in shown)


def test_a_secret_is_its_bytes_in_every_other_way() -> None:
    secret = Secret(b"hunter2")
    assert secret == b"hunter2"
    assert secret != b"hunter3"
    assert secret != "hunter2"
    assert {secret: 1}[Secret(b"hunter2")] == 1
    assert hashlib.sha1(secret).digest() == hashlib.sha1(b"hunter2").digest()
    assert secret[:2] == b"hu"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("well-known", bytes(20)),
        ("hash:" + "0123456789abcdefABCD" * 2, bytes.fromhex("0123456789abcdefabcd" * 2)),
        ("text:", hashlib.sha1(b"").digest()),
        ("text:a:b ", hashlib.sha1(b"a:b ").digest()),
        ("text:well-known", hashlib.sha1(b"well-known").digest()),
        ("text:ü", hashlib.sha1("ü".encode()).digest()),
    ],
)
def test_each_form_names_twenty_bytes_also_from_a_file(
    text: str, value: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "auth"
    assert parse_auth(text) == value
    for ending in ("", "\n", "\r\n"):
        path.write_bytes((text + ending).encode())
        assert parse_auth(f"file:{path}") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wellknown",
        "well-known ",
        "hash:",
        "hash:" + "0" * 39,
        "hash:" + "0" * 41,
        "hash:" + "g" * 40,
        "hash:" + "0" * 40 + "\n",
        "hunter2",
        "text",
        "file:/nonexistent/hunter2",
        "TEXT:hunter2",
    ],
)
def test_any_other_form_is_refused_without_being_quoted(text: str, tmp_path: Path) -> None:
    with pytest.raises(DaemonError) as raised:
        parse_auth(text)
    if not text.startswith("file:"):
        assert "hunter2" not in str(raised.value)
        path = tmp_path / "auth"
        path.write_text(text)
        if not text.endswith("\n"):
            with pytest.raises(DaemonError, match=str(path)) as raised:
                parse_auth(f"file:{path}")
            assert "hunter2" not in str(raised.value)


def test_a_secret_file_names_no_further_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"file:{tmp_path / 'b'}")
    (tmp_path / "b").write_text("well-known")
    with pytest.raises(DaemonError):
        parse_auth(f"file:{tmp_path / 'a'}")


def test_a_secret_file_is_bounded_and_text(tmp_path: Path) -> None:
    path = tmp_path / "auth"
    path.write_bytes(b"text:" + b"a" * 4092)
    with pytest.raises(DaemonError, match="longer than 4096 bytes"):
        parse_auth(f"file:{path}")
    path.write_bytes(b"text:\xff")
    with pytest.raises(DaemonError, match="not UTF-8"):
        parse_auth(f"file:{path}")


def test_an_option_may_leave_the_choice_to_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "auth"
    path.write_text("configured\n")
    assert parse_auth_option("configured") is None
    assert parse_auth_option(f"file:{path}") is None
    path.write_text("text:hunter2")
    assert parse_auth_option(f"file:{path}") == hashlib.sha1(b"hunter2").digest()
    # A configuration cannot leave it to itself.
    with pytest.raises(DaemonError):
        parse_auth("configured")
