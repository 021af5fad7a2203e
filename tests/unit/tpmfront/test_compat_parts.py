# SPDX-License-Identifier: Apache-2.0
"""Parts of swtpm's command line: keys, identity of a folder, what is printed, the locality command,
words of a link."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from daemons.tpmfront.compat import folderlock
from daemons.tpmfront.compat.capabilities import capabilities, states
from daemons.tpmfront.compat.errors import BadLine, Refusal
from daemons.tpmfront.compat.identity import candidates, read_identity, write_identity
from daemons.tpmfront.compat.keys import check
from daemons.tpmfront.compat.link import swtpm_words
from daemons.tpmfront.compat.localitycommand import LocalityCommand
from daemons.tpmfront.compat.options import KeyFile
from protocol.manager.compat import compat_uuid, uid_of

NAME = UUID("6a1f2b3c-1111-4222-8333-444455556666")
OTHER = UUID("5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c")


def key_file(path: Path, content: bytes, **changed: bool | int) -> KeyFile:
    """Return a key of 128 bits in hex, in a file."""
    path.write_bytes(content)
    form: dict[str, bool | int] = {
        "is_passphrase": False,
        "is_binary": False,
        "size_bytes": 16,
        "removes": False,
        **changed,
    }
    return KeyFile(path, None, **form)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        (b"00" * 16, {}),
        (b"0x" + b"aB" * 16 + b"\n", {}),
        (b"00" * 32, {"size_bytes": 32}),
        (b"\x00" * 16, {"is_binary": True}),
        (b"\x00", {"is_binary": True}),
        (b"a passphrase", {"is_passphrase": True}),
    ],
)
def test_keys_that_swtpm_takes(
    tmp_path: Path, content: bytes, changed: dict[str, bool | int]
) -> None:
    check(key_file(tmp_path / "key", content, **changed))
    assert (tmp_path / "key").exists()


@pytest.mark.parametrize(
    ("content", "changed", "reason"),
    [
        (b"", {}, "Could not parse key hex string into 16 byte buffer"),
        (b"xyz", {}, "Could not parse key hex string"),
        (b"00" * 17, {}, "Could not parse key hex string"),
        (b"000", {}, "Could not parse key hex string"),
        (b"00" * 8, {}, "Unsupported key length with 16 digits"),
        (b"00" * 16, {"size_bytes": 32}, "too short. Got 16 bytes, need 32"),
        (b"\x00" * 17, {"is_binary": True}, "Key is larger than buffer (17 > 16)"),
    ],
)
def test_keys_that_swtpm_refuses_and_leaves_where_they_are(
    tmp_path: Path, content: bytes, changed: dict[str, bool | int], reason: str
) -> None:
    key = key_file(tmp_path / "key", content, removes=True, **changed)
    with pytest.raises(BadLine) as refusal:
        check(key)
    assert reason in str(refusal.value)
    assert (tmp_path / "key").exists()


def test_a_key_of_a_descriptor_and_one_that_is_removed(tmp_path: Path) -> None:
    check(key_file(tmp_path / "key", b"00" * 16, removes=True))
    assert not (tmp_path / "key").exists()
    reading, writing = os.pipe()
    os.write(writing, b"11" * 16)
    os.close(writing)
    check(KeyFile(None, reading, False, False, 16, False))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    with pytest.raises(BadLine, match="Unable to open file"):
        check(KeyFile(tmp_path / "none", None, False, False, 16, False))


def test_a_users_uuid_carries_the_user_and_no_other_does() -> None:
    made = compat_uuid(1000, NAME)
    assert uid_of(made) == 1000
    assert made == compat_uuid(1000, NAME)
    assert len({made, compat_uuid(1001, NAME), compat_uuid(1000, OTHER)}) == 3
    assert made.version == 8
    assert uid_of(compat_uuid(0, NAME)) == 0
    assert uid_of(compat_uuid(2**32 - 2, NAME)) == 2**32 - 2
    for other in (NAME, OTHER, UUID(int=0), UUID(int=made.int ^ 1 << 80)):
        assert uid_of(other) is None
    for uid in (-1, 2**32 - 1):
        with pytest.raises(ValueError, match="uid"):
            compat_uuid(uid, NAME)


def test_the_uuid_in_a_path_is_tried_last(tmp_path: Path) -> None:
    folder = tmp_path / str(NAME) / "tpm1.2"
    assert candidates(folder, 7) == [compat_uuid(7, NAME), NAME]
    (only,) = candidates(tmp_path / "state", 7)
    assert uid_of(only) == 7
    assert candidates(tmp_path / "state", 7) != [only]


def test_an_identity_is_written_once(tmp_path: Path) -> None:
    assert read_identity(tmp_path) is None
    write_identity(tmp_path, NAME)
    assert read_identity(tmp_path) == NAME
    assert stat.S_IMODE((tmp_path / "vtpm.uuid").stat().st_mode) == 0o600
    with pytest.raises(Refusal, match="another process"):
        write_identity(tmp_path, OTHER)
    assert read_identity(tmp_path) == NAME
    assert [path.name for path in tmp_path.iterdir()] == ["vtpm.uuid"]


def test_a_damaged_identity_and_a_folder_of_swtpm_itself_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vtpm.uuid").write_text("nonsense")
    with pytest.raises(Refusal, match="does not hold a uuid"):
        read_identity(tmp_path)
    (tmp_path / "vtpm.uuid").unlink()
    (tmp_path / "tpm-00.permall").write_bytes(b"x")
    with pytest.raises(Refusal, match="state of a TPM of swtpm itself"):
        read_identity(tmp_path)


def test_what_is_printed_is_json_as_swtpm_has_it(tmp_path: Path) -> None:
    told = json.loads(capabilities())
    assert told["type"] == "swtpm"
    assert "tpm-1.2" in told["features"]
    assert "tpm-2.0" not in told["features"]
    # Else libvirt would migrate over a storage that both machines share.
    assert "cmdarg-migration" not in told["features"]
    assert json.loads(states(tmp_path)) == {"type": "swtpm", "states": []}
    (tmp_path / "vtpm").mkdir()
    (tmp_path / "vtpm" / "slot0").write_bytes(bytes(700))
    (state,) = json.loads(states(tmp_path))["states"]
    assert state == {"name": "permall", "size": 700}


def test_the_locality_command() -> None:
    seen: list[int] = []
    command = LocalityCommand(seen.append, 3, is_allowed=True)
    header = bytes.fromhex("00c1 0000000b 20001000")
    assert command.answer(header + b"\x03") == bytes.fromhex("00c4 0000000a 00000000")
    assert command.answer(header + b"\x04") == bytes.fromhex("00c4 0000000a 0000003d")
    assert command.answer(bytes.fromhex("00c1 0000000a 20001000")) == bytes.fromhex(
        "00c4 0000000a 00000003"
    )
    assert command.answer(bytes.fromhex("00c1 0000000a 000000f1")) is None
    assert seen == [3]
    refused = LocalityCommand(seen.append, 4, is_allowed=False)
    assert refused.answer(header + b"\x01") == bytes.fromhex("00c4 0000000a 00000009")
    assert seen == [3]


def test_a_link_named_swtpm_is_the_subcommand() -> None:
    assert swtpm_words(["/usr/bin/swtpm", "socket", "-d"]) == ["socket", "-d"]
    assert swtpm_words(["/usr/bin/tpmfront", "swtpm-compat", "socket"]) == ["socket"]
    assert swtpm_words(["/usr/bin/tpmfront", "socket"]) is None
    assert swtpm_words(["/usr/bin/tpmfront"]) is None


def test_sockets_are_opened_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "manager").touch()
    (tmp_path / "vtpm.toml").write_text(f'[compat]\nmanager = "{tmp_path}/manager"\n')
    script = (
        "import sys\n"
        "from daemons.tpmfront import command\n"
        "from daemons.tpmfront.compat import process\n"
        "def open_channels(options):\n"
        "    print({'click', 'trio', 'tpmcore', 'protocol', 'cryptography'} & {*sys.modules})\n"
        "    sys.exit()\n"
        "process.open_channels = open_channels\n"
        "command.main()\n"
    )
    words = ["swtpm-compat", "socket", "--tpmstate", f"dir={tmp_path}", "--log", "level=5"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words, "--ctrl", f"type=unixio,path={tmp_path}/ctrl"],
        env={"VTPM_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("set()\n", "", 0)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 1, "Missing TPM interface type."),
        (("bogus",), 1, "Unsupported TPM interface type 'bogus'."),
        (("--version",), 0, "TPM emulator version 0.11.0"),
        (("-v",), 0, "TPM emulator version 0.11.0"),
        (("--help",), 0, "Usage:"),
        (("socket", "--help"), 0, "--tpmstate"),
        (("socket", "--help"), 0, "Usage: tpmfront swtpm-compat socket [OPTIONS]\n"),
        (("chardev", "-h"), 0, "--chardev"),
        (("socket", "--print-capabilities"), 0, '"type": "swtpm"'),
        (("socket", "--bogus"), 1, "option --bogus not recognized"),
        (("socket", "--bogus"), 1, "Usage: tpmfront swtpm-compat socket [OPTIONS]\n"),
        (("socket", "--tpm2"), 1, "TPM 2.0 is not supported"),
        (("socket", "--print-states"), 1, "--tpmstate is required"),
        (("socket", "--tpmstate", "dir=/nonexistent"), 1, "/nonexistent: No such directory"),
    ],
)
def test_exit_codes_are_those_of_swtpm(words: tuple[str, ...], code: int, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemons.tpmfront", "swtpm-compat", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code
    assert says in (done.stderr if code else done.stdout)
    assert not (done.stdout if code else done.stderr)


def test_a_lock_on_a_file_that_was_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / folderlock.LOCK_NAME
    tried: list[int] = []

    def try_lock(fd: int) -> bool:
        tried.append(fd)
        if len(tried) == 1:
            lock.unlink()
        return really(fd)

    really = folderlock.try_lock
    monkeypatch.setattr(folderlock, "try_lock", try_lock)
    with folderlock.locked(tmp_path) as fd:
        assert len(tried) == 2
        assert os.path.samestat(os.fstat(fd), lock.stat())
        with lock.open() as other:
            assert not really(other.fileno())
    with lock.open() as other:
        assert really(other.fileno())


def test_a_lock_that_the_system_does_not_give_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(Refusal, match=r"Could not lock access to .*: No locks available"):
        folderlock.locked(tmp_path).__enter__()
