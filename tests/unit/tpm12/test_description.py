# SPDX-License-Identifier: Apache-2.0
"""What those see who watch a TPM: names, numbers and digests of PCRs, and no secret.

Every command of every other test is held against the same rules by `Chip.send`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import WireError
from protocol.tpm12.constants import EntityType, KeyUsage, Ordinal, ReservedHandle, ReturnCode, Tag
from protocol.tpm12.framing import HEADER_BYTES, build_message, error_response, parse_header
from protocol.tpm12.pcr import PcrInfoLong, PcrSelection
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import (
    BOOL,
    U8,
    U16,
    U32,
    U64,
    ListOf,
    Nested,
    Reader,
    SizedStruct,
    Structure,
)
from tests.fuzz.corpus import read_seeds
from tests.fuzz.dice import Dice
from tests.fuzz.mutate import Mutator
from tests.fuzz.values import Values
from tests.unit.tpm12.shown import check_description, words_of
from tests.unit.tpm12.tunnel import ENCRYPT, PLAIN, open_tunnel
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_owned_chip
from tpmcore import tss12
from tpmcore.engine import Description, Field, SessionUse
from tpmcore.tpm12.command import Command
from tpmcore.tpm12.description import describe, redact, spelled
from tpmcore.tpm12.disclosure import NUMBERS
from tpmcore.tpm12.table import EVERYTHING

SEEDS = read_seeds()
SECRET = b"the sealed secret of a test"
KEY_AUTH = b"usage-auth-of-a-key!"
PCR_INPUT = bytes.fromhex("5a" * 20)


def _row_id(row: Command) -> str:
    return row.ordinal.name


def _describe(command: bytes, response: bytes = b"") -> Description:
    return describe(EVERYTHING, command, response)


def _value(fields: tuple[Field, ...], *path: str) -> str:
    """Return the words of a field by its path."""
    for name in path[:-1]:
        (found,) = (field.value for field in fields if field.name == name)
        assert not isinstance(found, str)
        fields = found
    (words,) = (field.value for field in fields if field.name == path[-1])
    assert isinstance(words, str)
    return words


@pytest.mark.parametrize("row", EVERYTHING.values(), ids=_row_id)
def test_every_command_of_the_corpus_is_described_without_its_secrets(row: Command) -> None:
    assert SEEDS[row.ordinal], "no seed"
    parsed = 0
    for _, command in SEEDS[row.ordinal]:
        description = _describe(command)
        assert description.command == row.ordinal.name
        check_description(description, command, b"")
        reader = Reader(command, HEADER_BYTES)
        try:
            row.request.read(reader)
        except WireError:
            assert not description.parameters
            continue
        auth_count = parse_header(command).tag - Tag.RQU_COMMAND
        if auth_count in row.auth_blocks and reader.remaining == 45 * auth_count:
            parsed += 1
            names = [field.name for field in description.parameters]
            assert names == [spelled(name) for name, _ in row.request.layout()]
            assert len(description.sessions) == auth_count or row.ordinal == (
                Ordinal.EXECUTE_TRANSPORT
            )
    assert parsed


def _structures(kind: type[Structure], seen: set[type[Structure]]) -> Iterator[type[Structure]]:
    """Give a structure and all that it consists of."""
    if kind in seen:
        return
    seen.add(kind)
    yield kind
    try:
        wires: list[Any] = [wire for _, wire in kind.layout()]
    except TypeError:
        return  # it has a walk of its own
    for wire in wires:
        inner = wire.element if isinstance(wire, ListOf) else wire
        if isinstance(inner, Nested | SizedStruct):
            yield from _structures(inner.kind, seen)


def test_every_number_of_every_command_has_words() -> None:
    seen: set[type[Structure]] = set()
    silent = []
    for row in EVERYTHING.values():
        for kind in (row.request, row.response):
            for structure in _structures(kind, seen):
                try:
                    layout = structure.layout()
                except TypeError:
                    continue
                silent += [
                    f"{structure.__name__}.{name}"
                    for name, wire in layout
                    if wire in (U8, U16, U32, U64, BOOL)
                    and NUMBERS.keys().isdisjoint({name, f"{structure.__name__}.{name}"})
                ]
    assert silent == []


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_whatever_is_sent_its_copy_has_its_shape_and_none_of_its_secrets(seed: int) -> None:
    command = Mutator(Dice(str(seed)), SEEDS, {}).command()
    description = _describe(command)
    check_description(description, command, b"")
    if description.parameters and not _depends_on_hidden(command):
        # Lengths are where they were: of the copy is seen what is seen of the original.
        again = _describe(description.shown_command)
        assert (again.parameters, again.sessions) == (description.parameters, description.sessions)
        assert again.shown_command == description.shown_command


def _depends_on_hidden(command: bytes) -> bool:
    """Whether zeros in place of what is hidden may parse otherwise than what was there."""
    # They carry a pcrInfo that is looked into only if it parses.
    return parse_header(command).code in (Ordinal.SEAL, Ordinal.SEALX)


@settings(max_examples=300, deadline=None)
@given(command=st.binary(max_size=200), response=st.binary(max_size=200))
def test_noise_is_a_header_and_zeros(command: bytes, response: bytes) -> None:
    shown_command, shown_response = redact(EVERYTHING, command, response)
    for message, shown in ((command, shown_command), (response, shown_response)):
        head = message[:HEADER_BYTES] if len(message) >= HEADER_BYTES else b""
        assert shown == head + bytes(len(message) - len(head))


def _values_of(kind: type[Structure], draw: st.DataObject) -> bytes | None:
    """Return random parameters of a command by its layout; None if a layout is not enough."""
    made = Values(Dice(str(draw.draw(st.integers(0, 2**32))))).blank(kind)
    return None if made is None else made.encode()


@pytest.mark.parametrize("row", EVERYTHING.values(), ids=_row_id)
@settings(max_examples=20, deadline=None)
@given(draw=st.data())
def test_random_parameters_of_every_row_leave_no_secret_behind(
    row: Command, draw: st.DataObject
) -> None:
    auth_count = draw.draw(st.sampled_from(sorted(row.auth_blocks)))
    blocks = b"".join(os.urandom(24) + b"\1" + os.urandom(20) for _ in range(auth_count))
    answers = b"".join(os.urandom(20) + b"\0" + os.urandom(20) for _ in range(auth_count))
    request, answer = _values_of(row.request, draw), _values_of(row.response, draw)
    command = build_message(
        Tag.RQU_COMMAND + auth_count,
        row.ordinal,
        (os.urandom(40) if request is None else request) + blocks,
    )
    response = build_message(
        Tag.RSP_COMMAND + auth_count,
        ReturnCode.SUCCESS,
        (os.urandom(40) if answer is None else answer) + answers,
    )
    check_description(_describe(command), command, b"")
    description = _describe(command, response)
    if description.parameters:
        assert [session.continues for session in description.sessions][-auth_count:] == (
            [True] * auth_count
        )
    for start in range(0, len(blocks), 45):
        assert blocks[start + 4 : start + 24] not in description.shown_command
        assert blocks[start + 25 : start + 45] not in description.shown_command
    for start in range(0, len(answers), 41):
        assert answers[start : start + 20] not in description.shown_response
        assert answers[start + 21 : start + 41] not in description.shown_response


def _used() -> tuple[Chip, list[bytes]]:
    """Return a chip that was used, and the secrets that went through it."""
    chip = make_owned_chip()
    random, srk = chip.client_random, ReservedHandle.SRK
    chip.run(tss12.extend(10, PCR_INPUT))
    for_pcr_10 = PcrSelection.of((10,))
    info = PcrInfoLong(1, 31, for_pcr_10, for_pcr_10, bytes(20), bytes(20))
    secrets = [OWNER_AUTH, SRK_AUTH, KEY_AUTH, SECRET, chip.run(tss12.get_random(32))]
    for pcr_info in (info, None):
        sealed = chip.run(
            tss12.seal(
                srk,
                parent_auth=SRK_AUTH,
                blob_auth=KEY_AUTH,
                data=SECRET,
                pcr_info=pcr_info,
                random=random,
            )
        )
        secrets.append(sealed.enc_data)
    opened = chip.run(
        tss12.unseal(srk, sealed, parent_auth=SRK_AUTH, blob_auth=KEY_AUTH, random=random)
    )
    assert opened == SECRET
    return chip, secrets


def test_secrets_of_a_day_are_in_no_description() -> None:
    chip, secrets = _used()
    seen = b""
    for command, response in chip.log:
        description = _describe(command, response)
        words = " ".join(words_of((*description.parameters, *description.results)))
        seen += description.shown_command + description.shown_response + words.encode()
    for secret in secrets:
        assert secret not in seen
        assert secret.hex().encode() not in seen
    # And it is not because nothing is seen.
    assert PCR_INPUT in seen
    assert PCR_INPUT.hex().encode() in seen


def test_names_and_numbers_are_those_of_the_specification() -> None:
    command = bytes.fromhex("00c1 0000000e 00000015 0000000a")
    response = bytes.fromhex("00c4 0000001e 00000000" + "c3" * 20)
    assert _describe(command, response) == Description(
        command="PCR_READ",
        code="SUCCESS",
        parameters=(Field("pcrIndex", "10"),),
        results=(Field("outDigest", "c3" * 20),),
        sessions=(),
        shown_command=command,
        shown_response=response,
    )


def test_a_refusal_is_named_and_has_no_results() -> None:
    command = bytes.fromhex("00c1 0000000e 00000015 00000063")
    description = _describe(command, error_response(ReturnCode.BADINDEX))
    assert (description.code, description.results) == ("BADINDEX", ())
    assert description.parameters == (Field("pcrIndex", "99"),)
    assert description.shown_response == error_response(ReturnCode.BADINDEX)


def test_an_error_with_a_body_shows_none_of_it() -> None:
    response = build_message(Tag.RSP_COMMAND, ReturnCode.FAIL, SECRET)
    description = _describe(bytes.fromhex("00c1 0000000e 00000015 00000000"), response)
    assert description.shown_response == response[:HEADER_BYTES] + bytes(len(SECRET))


def test_a_session_is_its_handle_and_whether_it_goes_on() -> None:
    block = bytes.fromhex("1234abcd") + b"\x11" * 20 + b"\1" + b"\x22" * 20
    command = build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.OWNER_CLEAR, block)
    response = build_message(
        Tag.RSP_AUTH1_COMMAND, ReturnCode.SUCCESS, b"\x33" * 20 + b"\1" + b"\x44" * 20
    )
    description = _describe(command, response)
    assert description.sessions == (SessionUse("0x1234abcd", True),)
    assert description.shown_command == (
        command[:HEADER_BYTES] + bytes.fromhex("1234abcd") + bytes(20) + b"\1" + bytes(20)
    )
    assert description.shown_response == response[:HEADER_BYTES] + bytes(20) + b"\1" + bytes(20)


def test_of_what_a_key_is_made_is_shown_and_the_key_is_not() -> None:
    chip = make_owned_chip()
    made = [pair for pair in chip.log if parse_header(pair[0]).code == Ordinal.TAKE_OWNERSHIP]
    description = _describe(*made[0])
    assert _value(description.parameters, "srkParams", "keyUsage") == KeyUsage.STORAGE.name
    parms = ("srkParams", "algorithmParms", "parms", "keyLength")
    assert _value(description.parameters, *parms) == "2048"
    assert _value(description.parameters, "encOwnerAuth") == "<256 bytes>"
    assert _value(description.results, "srkPub", "pubKey") == "<256 bytes>"


def test_what_is_asked_of_get_capability_has_names() -> None:
    command = bytes.fromhex("00c1 00000016 00000065 00000005 00000004 00000101")
    response = bytes.fromhex("00c4 00000012 00000000 00000004 00000018")
    description = _describe(command, response)
    assert _value(description.parameters, "capArea") == "PROPERTY"
    assert _value(description.parameters, "subCap") == "PCR"
    assert _value(description.results, "resp") == "0x18"


def test_an_entity_type_says_how_its_secrets_are_encrypted() -> None:
    body = (0x0600 | EntityType.SRK).to_bytes(2, "big") + ReservedHandle.SRK.to_bytes(4, "big")
    command = build_message(Tag.RQU_COMMAND, Ordinal.OSAP, body + bytes(20))
    parameters = _describe(command).parameters
    assert _value(parameters, "entityType") == "SRK|AES128_CTR"
    assert _value(parameters, "entityValue") == "SRK"


@pytest.mark.parametrize("attributes", [ENCRYPT, PLAIN], ids=["encrypted", "plain"])
def test_inside_a_transport_session_only_the_name_is_seen(
    attributes: TransportAttributes,
) -> None:
    chip = make_owned_chip()
    transport = open_tunnel(chip, attributes)
    chip.run(tss12.through(transport, tss12.extend(10, PCR_INPUT)))
    command, response = chip.log[-1]
    description = _describe(command, response)
    assert description.command == "EXECUTE_TRANSPORT"
    assert _value(description.parameters, "wrappedCmd", "ordinal") == "EXTEND"
    assert _value(description.parameters, "wrappedCmd", "parameters") == "<24 bytes>"
    assert _value(description.results, "wrappedRsp", "returnCode") == "SUCCESS"
    assert PCR_INPUT not in description.shown_command
    assert len(description.sessions) == 1


def test_a_command_that_no_table_has_is_a_number() -> None:
    command = build_message(Tag.RQU_COMMAND, 0x1234, SECRET)
    description = _describe(command, error_response(ReturnCode.BAD_ORDINAL))
    assert (description.command, description.code) == ("0x1234", "BAD_ORDINAL")
    assert description.shown_command == command[:HEADER_BYTES] + bytes(len(SECRET))


def test_the_engine_describes_what_its_own_profile_has() -> None:
    chip = make_owned_chip()
    command = build_message(Tag.RQU_COMMAND, Ordinal.GET_TICKS)
    description = chip.engine.describe(command, chip.send(command))
    assert _value(description.results, "currentTime", "tickRate").isdecimal()
    assert _value(description.results, "currentTime", "tickNonce") == "<20 bytes>"


@pytest.mark.parametrize(
    "head",
    [
        # More authorization blocks than the command can have: what would be one are parameters.
        build_message(Tag.RQU_AUTH2_COMMAND, Ordinal.SEAL, b""),
        # Of a command that there is none of nobody knows where its sessions are.
        build_message(Tag.RQU_AUTH1_COMMAND, 0x1234, b""),
    ],
    ids=["too many", "no such command"],
)
def test_what_is_no_session_inside_of_a_transport_session_is_not_shown(head: bytes) -> None:
    parameters = bytes(range(1, 121))
    wrapped = head[:2] + (len(head) + len(parameters)).to_bytes(4, "big") + head[6:] + parameters
    body = len(wrapped).to_bytes(4, "big") + wrapped + bytes(45)
    command = build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.EXECUTE_TRANSPORT, body)
    description = _describe(command)
    start = HEADER_BYTES + 4 + HEADER_BYTES
    assert not any(description.shown_command[start : start + len(parameters)])
    assert len(description.sessions) == 1
