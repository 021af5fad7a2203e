# SPDX-License-Identifier: Apache-2.0
"""Which image a vTPM starts from: what the manager says held against what lies in the slots.

A pure function of both, so that every combination is decided in one place and tested without a
disk. What does not fit is refused with an account of each slot; nothing here or after a refusal
writes anything.

| manager says       | slots                                   | decision                          |
|--------------------|-----------------------------------------|-----------------------------------|
| unknown uuid       | none                                    | new vTPM, to be registered first  |
| unknown uuid       | any                                     | refused                           |
| no image yet       | none                                    | new vTPM                          |
| no image yet       | only slot0: torn, or ours with number 1 | new vTPM: nobody was told of it   |
| no image yet       | anything else                           | refused                           |
| hash and key       | one with that hash, opened by that key  | goes on from it                   |
| hash and key       | anything else                           | refused                           |
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never
from uuid import UUID

from daemons.runtime.errors import RefusedToStart
from daemons.vtpm.filenames import SLOT_NAMES
from daemons.vtpm.image import Content, HashKey, open_image, parse_slot
from protocol.errors import WireError


class Blank(enum.Enum):
    """What the manager knows of a vTPM that has no image."""

    UNKNOWN = "the manager does not know this uuid"
    NO_IMAGE = "the manager knows this uuid and has no image of it"


Record: TypeAlias = Blank | HashKey
"""The manager's answer to LOADHASHKEY."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A slot file that is there and cannot be read.

    Attributes:
        reason: the operating system's.
    """

    reason: str


Slot: TypeAlias = bytes | Unreadable | None
"""Content of a slot file; None if there is no such file."""


@dataclass(frozen=True, slots=True)
class NewVtpm:
    """There is no image to lose: make a new TPM.

    Attributes:
        register: the manager must be told of the uuid first.
    """

    register: bool


@dataclass(frozen=True, slots=True)
class Image:
    """The image to go on from.

    Attributes:
        index: its slot, 0 or 1.
        sequence: its number.
        record: what the manager has for it.
        content: what it holds, secrets in the clear.
    """

    index: int
    sequence: int
    record: HashKey
    content: Content = field(repr=False)


def select(record: Record, slots: tuple[Slot, Slot], uuid: UUID) -> NewVtpm | Image:
    """Decide what this vTPM starts from.

    Args:
        record: what the manager answered.
        slots: what is in the two slot files.
        uuid: of this vTPM.

    Raises:
        RefusedToStart: what is there does not belong together; the message says for each slot what
            does not match.
    """
    match record:
        case Blank.UNKNOWN:
            if slots != (None, None):
                raise _refusal(
                    uuid, "there are images, but the manager does not know this uuid", slots, None
                )
            return NewVtpm(register=True)
        case Blank.NO_IMAGE:
            if not _nobody_was_told(slots, uuid):
                raise _refusal(
                    uuid,
                    "there are images, but the manager has no key for them: its "
                    "record of this vTPM was made anew",
                    slots,
                    None,
                )
            return NewVtpm(register=False)
        case HashKey():
            return _current(record, slots, uuid)
        case _:
            assert_never(record)


def _current(record: HashKey, slots: tuple[Slot, Slot], uuid: UUID) -> Image:
    for index, slot in enumerate(slots):
        if not isinstance(slot, bytes) or not record.matches(slot):
            continue
        name = SLOT_NAMES[index]
        try:
            header = parse_slot(slot)
            content = open_image(slot, record.key)
        except WireError as error:
            # The bytes are those that were saved, so the key in the manager's record is not.
            raise RefusedToStart(
                f"vTPM {uuid}: {name} has the hash that the manager expects, but {error}"
            ) from error
        if header.uuid != uuid:
            raise RefusedToStart(
                f"vTPM {uuid}: {name} has the hash that the manager expects, but belongs to vTPM "
                f"{header.uuid}"
            )
        return Image(index, header.sequence, record, content)
    raise _refusal(uuid, "no slot holds the image that the manager expects", slots, record)


def _nobody_was_told(slots: tuple[Slot, Slot], uuid: UUID) -> bool:
    """Whether the slots can be what a crash between first slot write and SAVEHASHKEY leaves.

    Until an image is acknowledged every attempt goes to slot0 with number 1.
    """
    first, second = slots
    if second is not None or isinstance(first, Unreadable):
        return False
    if first is None:
        return True
    try:
        header = parse_slot(first)
    except WireError:
        return True
    return header.uuid == uuid and header.sequence == 1


def _refusal(
    uuid: UUID, what: str, slots: tuple[Slot, Slot], record: HashKey | None
) -> RefusedToStart:
    accounts = "; ".join(
        f"{name} {_account(slot, uuid, record)}"
        for name, slot in zip(SLOT_NAMES, slots, strict=True)
    )
    return RefusedToStart(f"vTPM {uuid}: {what}; {accounts}; nothing was changed")


def _account(slot: Slot, uuid: UUID, record: HashKey | None) -> str:
    match slot:
        case None:
            return "is missing"
        case Unreadable(reason):
            return f"cannot be read ({reason})"
        case bytes():
            pass
        case _:
            assert_never(slot)
    try:
        header = parse_slot(slot)
    except WireError as error:
        return f"is no whole image ({error})"
    if header.uuid != uuid:
        return f"belongs to vTPM {header.uuid}"
    if record is None:
        return f"is image {header.sequence} of this vTPM"
    digest = hashlib.sha256(slot).hexdigest()
    return (
        f"is image {header.sequence} of this vTPM, changed or not the last one: its SHA-256 is "
        f"{digest}, expected {record.digest.hex()}"
    )
