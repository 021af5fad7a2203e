# SPDX-License-Identifier: Apache-2.0
"""The commands that move a vTPM to another manager: of the groups `vtpm`, `manager` and `saa`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import click

from daemons.runtime.control import Json
from daemons.runtime.errors import DaemonError
from daemons.vtpmctl.adminclient import Admin
from daemons.vtpmctl.answers import (
    ask_manager,
    confirm,
    example,
    file_option,
    json_option,
    out_option,
    passphrase_option,
    table,
    tell,
    told,
    yes_option,
)
from daemons.vtpmctl.bundle import Bundle, read_images, write_images
from daemons.vtpmctl.documents import check_absent, read_file, write_file
from daemons.vtpmctl.options import ask, dir_option, find_host, system_option
from daemons.vtpmctl.pcrs import HexParameter
from daemons.vtpmctl.saa_cli import key_option, load_agent
from daemons.vtpmctl.vtpm_cli import configured_guests, name_argument, uuid_of
from protocol.errors import WireError
from protocol.manager.constants import ManagementOrdinal
from protocol.manager.management import Nothing, VtpmName
from protocol.manager.moving import (
    ANY_VTPM,
    MoveApproval,
    MoveEntry,
    MoveExport,
    MoveList,
    MovePackage,
    MoveReceipt,
    MoveRelease,
    MovesListed,
    MoveState,
    TransportKey,
    TransportKeyRequest,
)
from protocol.manager.transportkey import BadTransportKey, check_transport_key
from protocol.tpm12.wire import DIGEST_BYTES, Structure

_S = TypeVar("_S", bound=Structure)
_O = ManagementOrdinal
_COLUMNS = ("uuid", "guest", "state", "other_manager", "move")

image_option = click.option(
    "--image",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the slot files.  [default: of the guest that has this uuid]",
)
without_image_option = click.option(
    "--without-image", is_flag=True, help="The slot files are copied by somebody else."
)


def read_message(path: Path, kind: type[_S]) -> _S:
    """Return what a file of a move says; DaemonError if it is of another kind."""
    try:
        return kind.decode(read_file(path))
    except WireError as error:
        raise DaemonError(f"{path}: not a {kind.__name__}: {error}") from error


def _write(path: Path, content: bytes) -> None:
    async def write() -> None:
        write_file(path, content)

    ask(write)


# --- manager transport-key -----------------------------------------------------------------------


@click.command(
    "transport-key", epilog=example("vtpmctl manager transport-key --out this-machine.key")
)
@click.option("--group", type=int, default=0, show_default=True, help="Number of the group.")
@click.option(
    "--nonce",
    type=HexParameter(DIGEST_BYTES),
    help="Of whoever wants to see that the certificate is fresh: 40 hex digits.  [default: random]",
)
@out_option("For the public key and its certificate.")
@json_option
@dir_option
@system_option
@told()
def transport_key_command(
    group: int, nonce: bytes | None, out: Path, as_json: bool, root: Path | None, system: bool
) -> None:
    """Show the key to which vTPMs are encrypted that move into a group of this manager.

    It is in the hardware TPM, cannot leave it, and works in the present configuration only; the
    group's attestation identity key certifies that. An agent needs the file of both managers.
    """
    check_absent(out)
    request = TransportKeyRequest(group, os.urandom(DIGEST_BYTES) if nonce is None else nonce)

    async def show(admin: Admin) -> TransportKey:
        return await admin.ask(_O.TRANSPORT_KEY, request, TransportKey)

    key = ask_manager(root, system, show)
    check_transport_key(key)
    _write(out, key.encode())
    answer: dict[str, Json] = {
        "manager": str(key.manager),
        "digest": key.digest.hex(),
        "file": str(out),
    }
    tell(answer, as_json, f"manager {key.manager}", f"key {key.digest.hex()}")


# --- saa approve-move ----------------------------------------------------------------------------

APPROVE_EXAMPLE = example(
    "vtpmctl saa approve-move --key agent.pem --source old.key --target new.key \\",
    "        --sequence 7 --out move.approval",
)


@click.command("approve-move", epilog=APPROVE_EXAMPLE)
@key_option
@passphrase_option
@file_option("--source", "Transport key of the manager that has the vTPM.")
@file_option("--target", "Transport key of the manager that is to have it.")
@click.option("--vtpm", type=click.UUID, help="Which one.  [default: all of the group]")
@click.option(
    "--sequence",
    type=click.IntRange(0, (1 << 64) - 1),
    required=True,
    help="The approval counts until the group has a list with a greater sequence number.",
)
@out_option("For the approval.")
@json_option
@told()
def approve_move_command(
    key: Path,
    passphrase: Path | None,
    source: Path,
    target: Path,
    vtpm: UUID | None,
    sequence: int,
    out: Path,
    as_json: bool,
) -> None:
    """Let vTPMs of a group move from one manager to another, as the group's agent.

    Both keys must be certified to be bound to a hardware TPM. That the identity keys which certify
    them are those of the two machines the agent knows from their registration: compare what it
    prints with vtpmctl manager transport-key there.
    """
    check_absent(out)
    keys = []
    for path in (source, target):
        found = read_message(path, TransportKey)
        try:
            check_transport_key(found)
        except BadTransportKey as error:
            raise DaemonError(f"{path}: {error}") from error
        keys.append(found)
    old, new = keys
    approval = load_agent(key, passphrase).approve_move(
        MoveApproval(old.manager, old.digest, new.manager, new.digest, vtpm or ANY_VTPM, sequence)
    )
    write_file(out, approval.encode())
    answer: dict[str, Json] = {
        "source": str(old.manager),
        "source_key": old.digest.hex(),
        "target": str(new.manager),
        "target_key": new.digest.hex(),
        "vtpm": None if vtpm is None else str(vtpm),
        "sequence": sequence,
        "file": str(out),
    }
    tell(
        answer,
        as_json,
        f"from manager {old.manager}, key {old.digest.hex()}",
        f"to manager {new.manager}, key {new.digest.hex()}",
        f"{'all vTPMs of the group' if vtpm is None else vtpm}, up to list {sequence}",
    )


# --- vtpm export, import, release, activate ------------------------------------------------------

EXPORT_EXAMPLE = example(
    "vtpmctl guest stop web1",
    "vtpmctl vtpm export web1 --to new.key --approval move.approval --out web1.move",
)


@click.command("export", epilog=EXPORT_EXAMPLE)
@name_argument
@file_option("--to", "Transport key of the target.")
@click.option(
    "--approval",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of the group's agent. Not needed for one that is leaving already.",
)
@image_option
@without_image_option
@out_option("For the vTPM.")
@json_option
@dir_option
@system_option
@told()
def export_command(
    name: str,
    to: Path,
    approval: Path | None,
    image: Path | None,
    without_image: bool,
    out: Path,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Begin to move a vTPM to another manager: take it out of service and write it to a file.

    Its guest must be stopped. From now on this manager serves it to nobody, until vtpmctl vtpm
    cancel. The same command gives the same vTPM again.
    """
    check_absent(out)
    guests = configured_guests(root, system)
    uuid = uuid_of(name, guests)
    request = MoveExport(
        uuid,
        read_message(to, TransportKey).encode(),
        b"" if approval is None else read_message(approval, MoveApproval).encode(),
    )
    folder = None if without_image else _image_of(image, guests.get(uuid), root, system=system)

    async def export(admin: Admin) -> MovePackage:
        return await admin.ask(_O.MOVE_EXPORT, request, MovePackage)

    package = ask_manager(root, system, export)
    # now nobody writes to them any more
    images = {} if folder is None else read_images(folder)
    _write(out, Bundle(package, images).encode())
    answer: dict[str, Json] = {
        "vtpm": str(uuid),
        "move": str(package.identifier),
        "target": str(package.approval.target),
        "images": list[Json](images),
        "file": str(out),
    }
    tell(answer, as_json, f"vTPM {uuid} leaves for manager {package.approval.target}")


def _image_of(image: Path | None, guest: str | None, root: Path | None, *, system: bool) -> Path:
    """Return the folder of a vTPM's slot files."""
    if image is not None:
        return image
    if guest is None:
        raise click.UsageError("no guest here has this vTPM: say --image or --without-image")

    async def find() -> Path:
        return (await find_host(root, system=system)).state(guest)

    return ask(find)


IMPORT_EXAMPLE = example("vtpmctl vtpm import web1.move --guest web1 --out web1.receipt")


@click.command("import", epilog=IMPORT_EXAMPLE)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--guest", metavar="NAME", help="Put the slot files where this guest has its image.")
@image_option
@without_image_option
@out_option("For the receipt, which vtpmctl vtpm release takes at the source.")
@json_option
@dir_option
@system_option
@told()
def import_command(
    file: Path,
    guest: str | None,
    image: Path | None,
    without_image: bool,
    out: Path,
    as_json: bool,
    root: Path | None,
    system: bool,
) -> None:
    """Take in a vTPM that another manager has exported.

    It is not served before vtpmctl vtpm activate. The same command gives the same receipt again.
    """
    check_absent(out)
    bundle = Bundle.read(file)
    folder = None
    if bundle.images and not without_image:
        folder = _image_of(image, guest, root, system=system)

    async def take_in(admin: Admin) -> MoveReceipt:
        return await admin.ask(_O.MOVE_IMPORT, bundle.package, MoveReceipt)

    receipt = ask_manager(root, system, take_in)
    if folder is not None:
        write_images(folder, bundle.images)
    _write(out, receipt.encode())
    answer: dict[str, Json] = {
        "vtpm": str(receipt.vtpm),
        "move": str(receipt.move),
        "source": str(bundle.package.approval.source),
        "image": None if folder is None else str(folder),
        "file": str(out),
    }
    tell(answer, as_json, f"vTPM {receipt.vtpm} arrives; it lives when its source releases it")


@click.command("release", epilog=example("vtpmctl vtpm release web1.receipt --out web1.release"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@out_option("For the release, which vtpmctl vtpm activate takes at the target.")
@json_option
@dir_option
@system_option
@told()
def release_command(file: Path, out: Path, as_json: bool, root: Path | None, system: bool) -> None:
    """Let go of a vTPM for which the target has given a receipt.

    Its key data is deleted here; there is no way back but another move. The same command gives the
    same release again.
    """
    check_absent(out)
    receipt = read_message(file, MoveReceipt)

    async def let_go(admin: Admin) -> MoveRelease:
        return await admin.ask(_O.MOVE_RELEASE, receipt, MoveRelease)

    release = ask_manager(root, system, let_go)
    _write(out, release.encode())
    answer: dict[str, Json] = {"vtpm": str(release.vtpm), "file": str(out)}
    tell(answer, as_json, f"vTPM {release.vtpm} is gone from here")


@click.command("activate", epilog=example("vtpmctl vtpm activate web1.release"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@dir_option
@system_option
@told()
def activate_command(file: Path, as_json: bool, root: Path | None, system: bool) -> None:
    """Serve a vTPM that arrived and that its source has released."""
    release = read_message(file, MoveRelease)

    async def go_live(admin: Admin) -> None:
        await admin.ask(_O.MOVE_ACTIVATE, release, Nothing)

    ask_manager(root, system, go_live)
    tell({"vtpm": str(release.vtpm)}, as_json, f"vTPM {release.vtpm} lives here")


# --- vtpm cancel, abandon, moves -----------------------------------------------------------------


@click.command("cancel", epilog=example("vtpmctl vtpm cancel web1"))
@name_argument
@json_option
@dir_option
@system_option
def cancel_command(name: str, as_json: bool, root: Path | None, system: bool) -> None:
    """Serve a vTPM again that was leaving.

    Safe whatever the target has done: it cannot go live without the release, which from now on
    nobody can make. Refused once the vTPM was released.
    """
    uuid = uuid_of(name, configured_guests(root, system))

    async def cancel(admin: Admin) -> None:
        await admin.ask(_O.MOVE_CANCEL, VtpmName(uuid), Nothing)

    ask_manager(root, system, cancel)
    tell({"vtpm": str(uuid)}, as_json, f"vTPM {uuid} stays here")


@click.command("abandon", epilog=example("vtpmctl vtpm abandon UUID"))
@name_argument
@yes_option
@json_option
@dir_option
@system_option
def abandon_command(
    name: str, confirmed: str | None, as_json: bool, root: Path | None, system: bool
) -> None:
    """By force: forget a vTPM that is arriving, or that one is gone.

    Of one that is arriving: IF ITS SOURCE HAS RELEASED IT, ALL COPIES ARE LOST; look with vtpmctl
    vtpm moves there first. Of one that is gone: a guest of this manager may get a new vTPM of the
    same uuid.
    """
    uuid = uuid_of(name, configured_guests(root, system))
    confirm(
        f"This forgets the move of vTPM {uuid}. If it arrives and its source has released it, it "
        "is LOST.",
        str(uuid),
        confirmed,
    )

    async def forget(admin: Admin) -> None:
        await admin.ask(_O.MOVE_ABANDON, VtpmName(uuid), Nothing)

    ask_manager(root, system, forget)
    tell({"vtpm": str(uuid)}, as_json, f"the move of vTPM {uuid} is forgotten")


@click.command("moves", epilog=example("vtpmctl vtpm moves"))
@json_option
@dir_option
@system_option
def moves_command(as_json: bool, root: Path | None, system: bool) -> None:
    """Show the vTPMs that are leaving, are gone, arrive or have arrived."""
    guests = configured_guests(root, system)

    async def gather(admin: Admin) -> list[MoveEntry]:
        found: dict[UUID, MoveEntry] = {}
        offset = 0
        while True:
            page = await admin.ask(_O.MOVE_LIST, MoveList(offset), MovesListed)
            offset += len(page.entries)
            for encoded in page.entries:
                entry = MoveEntry.decode(encoded)
                found[entry.vtpm] = entry
            if offset >= page.total or not page.entries:
                return list(found.values())

    rows: list[dict[str, Json]] = [
        {
            "uuid": str(entry.vtpm),
            "guest": guests.get(entry.vtpm),
            "state": MoveState(entry.state).name.lower(),
            "other_manager": str(entry.peer),
            "move": str(entry.identifier),
        }
        for entry in ask_manager(root, system, gather)
    ]
    tell({"moves": list[Json](rows)}, as_json, table(_COLUMNS, rows))
