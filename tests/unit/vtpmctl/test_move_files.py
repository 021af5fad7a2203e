# SPDX-License-Identifier: Apache-2.0
"""The files of a move, as the operator's and the agent's commands make and read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import trio
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from daemons.runtime.errors import DaemonError, RefusedToStart
from daemons.runtime.files import StateFolder
from daemons.vtpmctl.bundle import Bundle, read_images, write_images
from daemons.vtpmctl.cli import main
from protocol.manager.approval import check_move
from protocol.manager.moving import ANY_VTPM, MoveApproval, MovePackage, TransportKey
from tests.unit.manager.fakes import Chip
from tests.unit.manager.moves import transport_key

VTPM = UUID(int=7)
IMAGES = {"slot0": b"the older one", "slot1": b"the newer one"}


@pytest.fixture
def keys(tmp_path: Path) -> tuple[TransportKey, TransportKey]:
    """Transport keys of two machines, also as files."""
    old, other = (trio.run(transport_key, Chip(name)) for name in (b"one", b"two"))
    new = replace(other, manager=UUID(int=2))
    for name, key in (("old.key", old), ("new.key", new)):
        (tmp_path / name).write_bytes(key.encode())
    return old, new


@pytest.fixture
def package(keys: tuple[TransportKey, TransportKey]) -> MovePackage:
    """A package that nobody opens."""
    old, new = keys
    approval = MoveApproval(old.manager, old.digest, new.manager, new.digest, VTPM, 1)
    return MovePackage(
        *(UUID(int=9), VTPM, old.public_key, old.aik_modulus, approval),
        *(bytes(256), bytes(12), b"box"),
    )


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


# --- the agent's approval ------------------------------------------------------------------------


def approve(folder: Path, *more: str) -> Result:
    if not (folder / "agent.pem").exists():
        assert not run("saa", "keygen", "--out", str(folder / "agent.pem")).exit_code
    return run(
        *("saa", "approve-move", "--key", str(folder / "agent.pem")),
        *("--source", str(folder / "old.key"), "--target", str(folder / "new.key")),
        *("--sequence", "5", "--out", str(folder / "approval"), *more),
    )


def agent_modulus(folder: Path) -> bytes:
    key = load_pem_private_key((folder / "agent.pem").read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    return key.public_key().public_numbers().n.to_bytes(256, "big")


@pytest.mark.parametrize("vtpm", [None, VTPM])
def test_an_approval_names_both_keys_and_is_the_agents(
    tmp_path: Path, keys: tuple[TransportKey, TransportKey], vtpm: UUID | None
) -> None:
    result = approve(tmp_path, *([] if vtpm is None else ["--vtpm", str(vtpm)]))
    assert result.exit_code == 0, result.output
    assert keys[0].digest.hex() in result.output
    assert keys[1].digest.hex() in result.output
    approval = MoveApproval.decode((tmp_path / "approval").read_bytes())
    check_move(agent_modulus(tmp_path), approval)
    assert (approval.source, approval.target) == (keys[0].manager, keys[1].manager)
    assert (approval.source_key, approval.target_key) == (keys[0].digest, keys[1].digest)
    assert (approval.vtpm, approval.sequence) == (vtpm or ANY_VTPM, 5)
    assert (tmp_path / "approval").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["old.key", "new.key"])
def test_an_agent_approves_no_key_that_is_not_certified(
    tmp_path: Path, keys: tuple[TransportKey, TransportKey], name: str
) -> None:
    for bad in (replace(keys[0], nonce=bytes(20)).encode(), b"", b"vTPM TKEY1 and nothing"):
        (tmp_path / name).write_bytes(bad)
        result = approve(tmp_path)
        assert result.exit_code == 1
        assert name in result.output
        assert not (tmp_path / "approval").exists()


# --- the bundle ----------------------------------------------------------------------------------


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path, package: MovePackage) -> None:
    for images in (IMAGES, {}, {"slot1": b""}):
        (tmp_path / "m").write_bytes(Bundle(package, images).encode())
        assert Bundle.read(tmp_path / "m") == Bundle(package, images)


def test_what_is_no_bundle_is_refused(tmp_path: Path, package: MovePackage) -> None:
    whole = Bundle(package, IMAGES).encode()
    without = len(Bundle(package, {}).encode())
    path = tmp_path / "m"
    for size in range(0, len(whole), 5):
        path.write_bytes(whole[:size])
        # the images are optional: cut before one of them it is a bundle with fewer
        if size not in (without, without + 10 + len(IMAGES["slot0"])):
            with pytest.raises(DaemonError):
                Bundle.read(path)
    for images in ({"../slot0": b""}, {"slot2": b""}, {"running": b""}):
        path.write_bytes(Bundle(package, images).encode())
        with pytest.raises(DaemonError, match="no slot of an image"):
            Bundle.read(path)
    path.write_bytes(whole + whole[without:])
    with pytest.raises(DaemonError, match="no slot of an image"):
        Bundle.read(path)


def test_slots_go_where_no_other_image_is(tmp_path: Path) -> None:
    folder = tmp_path / "guest"
    write_images(folder, IMAGES)
    write_images(folder, IMAGES)
    assert read_images(folder) == IMAGES
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "slot0").stat().st_mode & 0o777 == 0o600
    (folder / "slot1").unlink()
    write_images(folder, IMAGES)
    assert read_images(folder) == IMAGES
    with pytest.raises(DaemonError, match="another image"):
        write_images(folder, {"slot0": b"foreign", "slot1": IMAGES["slot1"]})
    assert read_images(folder) == IMAGES


def test_slots_of_a_vtpm_that_runs_are_left_alone(tmp_path: Path) -> None:
    with StateFolder(tmp_path / "guest").lock(), pytest.raises(RefusedToStart, match="in use"):
        write_images(tmp_path / "guest", IMAGES)
    assert read_images(tmp_path / "guest") == {}


# --- the commands --------------------------------------------------------------------------------


def test_nothing_is_asked_of_the_manager_if_the_answer_could_not_be_written(
    tmp_path: Path, package: MovePackage
) -> None:
    (tmp_path / "m").write_bytes(Bundle(package, {}).encode())
    (tmp_path / "there").write_text("something")
    # no manager runs here: what is refused earlier says something else
    where = "--dir", str(tmp_path / "stack"), "--out", str(tmp_path / "there")
    for command in (
        ("export", str(VTPM), "--to", str(tmp_path / "new.key")),
        ("import", str(tmp_path / "m")),
        ("release", str(tmp_path / "m")),
    ):
        result = run("vtpm", *command, *where)
        assert result.exit_code == 1
        assert "is there already" in result.output


def test_an_image_needs_a_place(tmp_path: Path, package: MovePackage) -> None:
    (tmp_path / "m").write_bytes(Bundle(package, IMAGES).encode())
    where = "--dir", str(tmp_path / "stack"), "--out", str(tmp_path / "receipt")
    result = run("vtpm", "import", str(tmp_path / "m"), *where)
    assert result.exit_code == 2
    assert "--image or --without-image" in result.output


def test_to_abandon_a_move_takes_its_name_once_more(tmp_path: Path) -> None:
    result = run("vtpm", "abandon", str(VTPM), "--yes", "yes", "--dir", str(tmp_path / "stack"))
    assert result.exit_code == 2
    assert "nothing was done" in result.output
