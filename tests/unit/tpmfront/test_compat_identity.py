# SPDX-License-Identifier: Apache-2.0
"""Which vTPM a folder of --tpmstate is, by what the manager says and what the folder has."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import trio

from daemons.runtime.log import Level, Log
from daemons.runtime.sockets import listen_unix
from daemons.tpmfront.compat import standing
from daemons.tpmfront.compat.errors import Refusal
from daemons.tpmfront.compat.startup import find_identity
from protocol.manager.compat import compat_uuid, uid_of
from protocol.manager.constants import ManagerCode
from protocol.manager.framing import error_response, success_response
from protocol.manager.messages import NO_IMAGE, encode_load_hash_key
from protocol.tpmif.errors import Refused
from protocol.tpmif.unix import BackendDevice, PeerCredentials, serve_backend

NAME = UUID("6a1f2b3c-1111-4222-8333-444455556666")
OWN = compat_uuid(os.geteuid(), NAME)
BLANK = success_response(NO_IMAGE)
RECORD = success_response(bytes(range(64)))
UNKNOWN = error_response(ManagerCode.BAD_PARAMETER)
DISABLED = error_response(ManagerCode.DISABLED)


class Manager:
    """Admits some vTPMs, and says one thing after the other of them; the last one for ever."""

    def __init__(self, answers: Iterable[bytes], admitted: Iterable[UUID] = (OWN,)) -> None:
        self.answers = list(answers)
        self.admitted = set(admitted)
        self.asked = 0

    def admit(self, _peer: PeerCredentials, uuid: UUID) -> None:
        """Let one in."""
        if uuid not in self.admitted:
            raise Refused("not this one")

    async def opened(self, device: BackendDevice) -> None:
        """Take no notice."""

    async def closed(self, device: BackendDevice) -> None:
        """Take no notice."""

    def cancel(self, device: BackendDevice) -> None:
        """Take no notice."""

    async def request(self, device: BackendDevice, request: bytes, locality: int) -> bytes:
        """Answer."""
        assert request == encode_load_hash_key()
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def serving(run_dir: Path, manager: Manager) -> AsyncIterator[Path]:
    """Give the socket of a manager."""
    path = run_dir / "vtpmmgr.sock"
    with listen_unix(path, kind=socket.SOCK_SEQPACKET) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(serve_backend, listener, admit=manager.admit, handler=manager)
            )
            yield path
            nursery.cancel_scope.cancel()


async def found_in(run_dir: Path, folder: Path, manager: Manager) -> tuple[UUID, list[str]]:
    """Return the vTPM of a folder, and what was logged."""
    lines: list[str] = []
    log = Log("swtpm", level=Level.DEBUG, sink=lines.append)
    found: UUID | Refusal
    async with serving(run_dir, manager) as path:
        try:
            found = await find_identity(folder, path, log)
        except Refusal as refusal:  # not in a group of the nursery's
            found = refusal
    if isinstance(found, Refusal):
        raise found
    return found, lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder as libvirt makes it."""
    made = tmp_path / str(NAME) / "tpm1.2"
    made.mkdir(parents=True)
    return made


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as a machine that stands still needs."""
    monkeypatch.setattr(standing, "_OPEN_ELSEWHERE_S", 60.0)
    monkeypatch.setattr(standing, "_PAUSE_S", 0.01)


@pytest.mark.parametrize(
    "answers", [[UNKNOWN], [BLANK], [DISABLED, DISABLED, UNKNOWN]], ids=["unknown", "blank", "late"]
)
async def test_a_folder_without_images_is_the_tpm_of_its_path_if_that_has_none(
    run_dir: Path, folder: Path, answers: list[bytes]
) -> None:
    uuid, lines = await found_in(run_dir, folder, Manager(answers))

    assert uuid == OWN
    assert (folder / "vtpm.uuid").read_text() == f"{OWN}\n"
    assert lines == []


@pytest.mark.parametrize(
    ("answers", "patience_s", "asked"),
    [([RECORD], 60.0, 1), ([DISABLED, RECORD], 60.0, 2), ([DISABLED], 0.0, 1)],
    ids=["image", "late", "elsewhere"],
)
async def test_it_is_another_one_if_that_of_its_path_has_had_an_image(
    run_dir: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[bytes],
    patience_s: float,
    asked: int,
) -> None:
    monkeypatch.setattr(standing, "_OPEN_ELSEWHERE_S", patience_s)
    manager = Manager(answers)
    uuid, lines = await found_in(run_dir, folder, manager)

    assert manager.asked == asked
    assert uuid != OWN
    assert uid_of(uuid) == os.geteuid()
    assert (folder / "vtpm.uuid").read_text() == f"{uuid}\n"
    (line,) = lines
    assert "folder made anew is another TPM" in line
    assert str(OWN) in line


@pytest.mark.parametrize("code", [ManagerCode.AUTHFAIL, ManagerCode.FAIL, ManagerCode.IOERROR])
async def test_nothing_is_decided_while_the_manager_does_not_say(
    run_dir: Path, folder: Path, code: ManagerCode
) -> None:
    manager = Manager([error_response(code), UNKNOWN])

    with pytest.raises(Refusal, match="does not say whether vTPM"):
        await found_in(run_dir, folder, manager)
    assert list(folder.iterdir()) == []
    assert (await found_in(run_dir, folder, manager))[0] == OWN


async def test_an_answer_that_is_none_decides_nothing(run_dir: Path, folder: Path) -> None:
    with pytest.raises(Refusal, match="no manager at"):
        await found_in(run_dir, folder, Manager([success_response(bytes(10))]))
    assert list(folder.iterdir()) == []


async def test_what_an_operator_has_configured_is_not_asked_about(
    run_dir: Path, folder: Path
) -> None:
    manager = Manager([RECORD], [NAME])

    assert (await found_in(run_dir, folder, manager))[0] == NAME
    assert manager.asked == 0


async def test_a_folder_that_says_what_it_is_gets_no_key_of_it(run_dir: Path, folder: Path) -> None:
    (folder / "vtpm.uuid").write_text(f"{OWN}\n")
    manager = Manager([RECORD])

    assert (await found_in(run_dir, folder, manager))[0] == OWN
    assert manager.asked == 0


@pytest.mark.parametrize("answer", [UNKNOWN, RECORD], ids=["unknown", "image"])
async def test_images_without_a_name_are_left_alone(
    run_dir: Path, folder: Path, answer: bytes
) -> None:
    slot = folder / "vtpm" / "slot1"
    slot.parent.mkdir()
    slot.write_bytes(b"image")

    with pytest.raises(Refusal, match=r"has images of a TPM and no vtpm\.uuid"):
        await found_in(run_dir, folder, Manager([answer]))
    assert [path.name for path in folder.iterdir()] == ["vtpm"]


@pytest.mark.parametrize("kind", ["link", "file"])
async def test_a_state_folder_that_is_none_decides_nothing(
    run_dir: Path, folder: Path, kind: str
) -> None:
    state = folder / "vtpm"
    if kind == "link":
        state.symlink_to("nowhere")
    else:
        state.write_bytes(b"")

    with pytest.raises(Refusal, match=r"link to nowhere|Not a directory"):
        await found_in(run_dir, folder, Manager([RECORD]))
    assert [path.name for path in folder.iterdir()] == ["vtpm"]


async def test_a_user_without_a_vtpm_is_told_what_to_do(run_dir: Path, folder: Path) -> None:
    with pytest.raises(Refusal, match=r"Put \d+ into uids of \[compat\]"):
        await found_in(run_dir, folder, Manager([UNKNOWN], []))
    assert list(folder.iterdir()) == []
