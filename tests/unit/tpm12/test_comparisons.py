# SPDX-License-Identifier: Apache-2.0
"""A right secret and a wrong one go the same way until they are compared, and nothing but the
comparison tells them apart.

Held by the way, not by a clock: every line of ours that runs for a command is noted, once with the
right secret and once with one bit of it turned, from two engines that are the same to the last
byte. Up to the comparison both must have run the same lines, and that must be compare_digest.
"""

from __future__ import annotations

import ast
import hmac
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeAlias

import pytest

import protocol
import tpmcore
from protocol.tpm12.constants import (
    MigrationScheme,
    NvAttributes,
    Ordinal,
    ResourceType,
    ReturnCode,
)
from protocol.tpm12.delegation import DelegateOwnerBlob, DelegatePublic, DelegateType, Delegations
from protocol.tpm12.resources import ContextBlob
from protocol.tpm12.stored import StoredData
from protocol.tpm12.wire import Reader
from tests.unit.tpm12 import keychain
from tests.unit.tpm12.keychain import (
    MIGRATABLE,
    MIGRATION_AUTH,
    SRK,
    USAGE_AUTH,
    craft_key,
    make_and_load,
    make_key,
    signing_key,
    storage_key,
)
from tests.unit.tpm12.tunnel import PLAIN, open_tunnel
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import Conversation, ResponseError
from tpmcore.tss12.sessions import with_secret

Spoil = Callable[[bytes], bytes]
"""Gives a secret as it is, or with one bit turned."""
Scenario = Callable[[Chip, Spoil], Conversation[Any]]
TraceFunction: TypeAlias = Callable[[FrameType, str, object], "TraceFunction | None"]

OURS: Final = tuple(str(Path(package.__file__ or "").parent) for package in (tpmcore, protocol))
AREA: Final = 0x11234
AREA_ATTRIBUTES: Final = NvAttributes.AUTHREAD | NvAttributes.AUTHWRITE
AREA_AUTH: Final = b"secret of an area---"
COUNTER_AUTH: Final = b"secret of a counter-"
BLOB_AUTH: Final = b"secret of a blob----"
OPERATOR_AUTH: Final = b"secret of operators-"
DELEGATE_AUTH: Final = b"secret of a delegate"
EK_RESET: Final = b"secret to revoke it!"
HMAC_BYTES, BLOCK_BYTES = 20, 45
TURNED_BITS: Final = [(0, 0x80), (10, 0x01), (19, 0x01)]
"""Byte and mask: an early exit would show in one that is early or late."""


@dataclass
class Way:
    """What ran for one command.

    Attributes:
        lines: (file, line) of each line of ours, in order.
        compared: per call of compare_digest, how many lines had run, sizes of both sides, outcome.
    """

    lines: list[tuple[str, int]] = field(default_factory=list)
    compared: list[tuple[int, int, int, bool]] = field(default_factory=list)


@contextmanager
def _noted() -> Iterator[Way]:
    way = Way()
    compare = hmac.compare_digest

    def compare_noted(one: bytes, other: bytes) -> bool:
        same = compare(one, other)
        way.compared.append((len(way.lines), len(one), len(other), same))
        return same

    def note(frame: FrameType, event: str, _argument: object) -> TraceFunction | None:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            way.lines.append((frame.f_code.co_filename, frame.f_lineno))
        return note

    before = sys.gettrace()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hmac, "compare_digest", compare_noted)
        sys.settrace(note)
        try:
            yield way
        finally:
            sys.settrace(before)


def _walk(
    make: Callable[[], Chip],
    scenario: Scenario,
    ordinal: Ordinal,
    *,
    secret: Spoil = bytes,
    command: Spoil = bytes,
) -> tuple[Way, int]:
    """Run a scenario on a fresh chip up to its first command with an ordinal.

    Args:
        secret: given to the scenario.
        command: applied to that command.

    Returns:
        Its way and return code.
    """
    chip = make()
    ended: list[tuple[Way, int]] = []

    def send(data: bytes) -> bytes:
        if int.from_bytes(data[6:10], "big") != ordinal or ended:
            return chip.send(data)
        spoiled = command(data)
        with _noted() as way:
            response = chip.send(spoiled)
        ended.append((way, int.from_bytes(response[6:10], "big")))
        return response

    with suppress(TpmError, ResponseError):
        tss12.run_sync(send, scenario(chip, secret))
    return ended[0]


def _turned(data: bytes, start: int, byte: int, mask: int) -> bytes:
    """Turn one bit of 20 bytes that begin at a place."""
    changed = bytearray(data)
    changed[start + byte] ^= mask
    return bytes(changed)


def _assert_same_way_until_compared(right: Way, wrong: Way) -> None:
    outcomes = [same for _, _, _, same in wrong.compared]
    assert False in outcomes, "nothing was compared in constant time"
    decisive = outcomes.index(False)
    lines_run, one, other, _ = wrong.compared[decisive]
    assert one == other, "sides of different lengths tell how long the secret is"
    assert right.compared[:decisive] == wrong.compared[:decisive]
    assert right.compared[decisive] == (lines_run, one, other, True)
    assert lines_run > 0
    assert right.lines[:lines_run] == wrong.lines[:lines_run]


def _assert_only_the_comparison_tells(
    make: Callable[[], Chip],
    scenario: Scenario,
    ordinal: Ordinal,
    refusal: int,
    spoil: Callable[[int, int], dict[str, Spoil]],
) -> None:
    # Caches of classes and keys are filled by the first run, which is not looked at.
    _walk(make, scenario, ordinal)
    right, code = _walk(make, scenario, ordinal)
    assert code == ReturnCode.SUCCESS
    again, _ = _walk(make, scenario, ordinal)
    assert (again.lines, again.compared) == (right.lines, right.compared)
    for byte, mask in TURNED_BITS:
        wrong, code = _walk(make, scenario, ordinal, **spoil(byte, mask))
        assert code == refusal
        _assert_same_way_until_compared(right, wrong)


def _area(chip: Chip) -> None:
    chip.run(
        tss12.nv_define_space(
            AREA,
            8,
            AREA_ATTRIBUTES,
            owner_auth=OWNER_AUTH,
            area_auth=AREA_AUTH,
            random=chip.client_random,
        )
    )


def _delegate(chip: Chip) -> DelegateOwnerBlob:
    """Make a delegation to the owner's reading of the EK."""
    random = chip.client_random
    family = chip.run(tss12.create_family(1, owner_auth=OWNER_AUTH, random=random))
    owner_read_pubek = Delegations(DelegateType.OWNER, 1 << 9)
    public = DelegatePublic(1, tss12.pcr_info_short({}), owner_read_pubek, family, 0)
    create = tss12.create_owner_delegation(
        public, owner_auth=OWNER_AUTH, delegate_auth=DELEGATE_AUTH, random=random
    )
    return chip.run(create)


def owner_by_oiap(chip: Chip, _: Spoil) -> Conversation[Any]:
    return tss12.owner_read_pubek(owner_auth=OWNER_AUTH, random=chip.client_random)


def owner_by_osap(chip: Chip, _: Spoil) -> Conversation[Any]:
    return tss12.nv_define_space(
        AREA, 8, AREA_ATTRIBUTES, owner_auth=OWNER_AUTH, random=chip.client_random
    )


def owner_by_dsap(chip: Chip, _: Spoil) -> Conversation[Any]:
    random = chip.client_random
    load = tss12.load_owner_delegation(0, _delegate(chip), owner_auth=OWNER_AUTH, random=random)
    chip.run(load)
    session = chip.run(tss12.dsap_row(0, DELEGATE_AUTH, random=random))
    return with_secret(Ordinal.OWNER_READ_PUBEK, _rest, OWNER_AUTH, random=random, session=session)


def key_by_oiap(chip: Chip, _: Spoil) -> Conversation[Any]:
    handle = make_and_load(chip, signing_key())[1]
    return tss12.sign(handle, bytes(20), key_auth=USAGE_AUTH, random=chip.client_random)


def two_entities(chip: Chip, _: Spoil) -> Conversation[Any]:
    return tss12.unseal(
        SRK,
        _sealed(chip),
        parent_auth=SRK_AUTH,
        blob_auth=BLOB_AUTH,
        random=chip.client_random,
    )


def migration(chip: Chip, _: Spoil) -> Conversation[Any]:
    return _migrate(chip, make_key(chip, signing_key(flags=MIGRATABLE)).enc_data, bytes)


def _migrate(chip: Chip, enc_data: bytes, spoil: Spoil) -> Conversation[Any]:
    random = chip.client_random
    destination = make_key(chip, storage_key(flags=MIGRATABLE)).public_key
    permission = chip.run(
        tss12.authorize_migration_key(
            MigrationScheme.MIGRATE, destination, owner_auth=OWNER_AUTH, random=random
        )
    )
    return tss12.create_migration_blob(
        SRK,
        enc_data,
        scheme=MigrationScheme.MIGRATE,
        permission=replace(permission, digest=spoil(permission.digest)),
        parent_auth=SRK_AUTH,
        migration_auth=MIGRATION_AUTH,
        random=random,
    )


def nv_area(chip: Chip, _: Spoil) -> Conversation[Any]:
    _area(chip)
    return tss12.nv_read_value_auth(AREA, 8, area_auth=AREA_AUTH, random=chip.client_random)


def counter(chip: Chip, _: Spoil) -> Conversation[Any]:
    random = chip.client_random
    made = chip.run(
        tss12.create_counter(
            owner_auth=OWNER_AUTH, counter_auth=COUNTER_AUTH, label=b"test", random=random
        )
    )
    return tss12.increment_counter(made.count_id, counter_auth=COUNTER_AUTH, random=random)


def operator(chip: Chip, _: Spoil) -> Conversation[Any]:
    chip.assert_presence()
    chip.run(tss12.set_operator_auth(OPERATOR_AUTH))
    return tss12.set_temp_deactivated(operator_auth=OPERATOR_AUTH, random=chip.client_random)


def transport(chip: Chip, _: Spoil) -> Conversation[Any]:
    return tss12.through(open_tunnel(chip, PLAIN), tss12.pcr_read(0))


def _rest(reader: Reader) -> bytes:
    return reader.take(reader.remaining)


def _last(byte: int, mask: int) -> dict[str, Spoil]:
    return {"command": lambda data: _turned(data, len(data) - HMAC_BYTES, byte, mask)}


def _first(byte: int, mask: int) -> dict[str, Spoil]:
    start = HMAC_BYTES + BLOCK_BYTES
    return {"command": lambda data: _turned(data, len(data) - start, byte, mask)}


def _in_scenario(byte: int, mask: int) -> dict[str, Spoil]:
    return {"secret": lambda data: _turned(data, 0, byte, mask)}


@pytest.mark.parametrize(
    ("scenario", "ordinal"),
    [
        (owner_by_oiap, Ordinal.OWNER_READ_PUBEK),
        (owner_by_osap, Ordinal.NV_DEFINE_SPACE),
        (owner_by_dsap, Ordinal.OWNER_READ_PUBEK),
        (key_by_oiap, Ordinal.SIGN),
        (nv_area, Ordinal.NV_READ_VALUE_AUTH),
        (counter, Ordinal.INCREMENT_COUNTER),
        (operator, Ordinal.SET_TEMP_DEACTIVATED),
        (transport, Ordinal.EXECUTE_TRANSPORT),
    ],
    ids=lambda part: part.__name__ if callable(part) and not isinstance(part, int) else "",
)
def test_one_hmac_is_judged_by_its_comparison_alone(scenario: Scenario, ordinal: Ordinal) -> None:
    refusal = ReturnCode.AUTHFAIL
    _assert_only_the_comparison_tells(make_owned_chip, scenario, ordinal, refusal, _last)


@pytest.mark.parametrize(
    ("scenario", "ordinal"),
    [(two_entities, Ordinal.UNSEAL), (migration, Ordinal.CREATE_MIGRATION_BLOB)],
)
@pytest.mark.parametrize(
    ("spoil", "refusal"), [(_first, ReturnCode.AUTHFAIL), (_last, ReturnCode.AUTH2FAIL)]
)
def test_each_of_two_hmacs_is_judged_by_its_comparison_alone(
    scenario: Scenario,
    ordinal: Ordinal,
    spoil: Callable[[int, int], dict[str, Spoil]],
    refusal: ReturnCode,
) -> None:
    _assert_only_the_comparison_tells(make_owned_chip, scenario, ordinal, refusal, spoil)


def _sealed(chip: Chip) -> StoredData:
    return chip.run(
        tss12.seal(
            SRK,
            parent_auth=SRK_AUTH,
            blob_auth=BLOB_AUTH,
            data=b"sealed",
            pcr_info=None,
            random=chip.client_random,
        )
    )


def proof_in_a_sealed_blob(chip: Chip, spoil: Spoil) -> Conversation[Any]:
    genuine = _sealed(chip)
    plain = keychain.decrypt_with_srk(genuine.enc_data)
    # TPM_SEALED_DATA: payload, authData, tpmProof, storedDigest, data
    forged = plain[:21] + spoil(plain[21:41]) + plain[41:]
    enc_data = keychain.encrypt_oaep(keychain.srk_modulus(), forged)
    return tss12.unseal(
        SRK,
        replace(genuine, enc_data=enc_data),
        parent_auth=SRK_AUTH,
        blob_auth=BLOB_AUTH,
        random=chip.client_random,
    )


def proof_in_a_key(chip: Chip, spoil: Spoil) -> Conversation[Any]:
    proof = keychain.decrypt_with_srk(_sealed(chip).enc_data)[21:41]
    forged = craft_key(signing_key(), migration_auth=spoil(proof))
    return tss12.load_key2(SRK, forged, parent_auth=SRK_AUTH, random=chip.client_random)


def permission_to_migrate(chip: Chip, spoil: Spoil) -> Conversation[Any]:
    enc_data = make_key(chip, signing_key(flags=MIGRATABLE)).enc_data
    return _migrate(chip, enc_data, spoil)


def integrity_of_a_context(chip: Chip, spoil: Spoil) -> Conversation[Any]:
    session = chip.run(tss12.oiap())
    blob = ContextBlob.decode(chip.run(tss12.save_context(session.handle, ResourceType.AUTH)))
    forged = replace(blob, integrity_digest=spoil(blob.integrity_digest))
    return tss12.load_context(forged.encode())


def integrity_of_a_delegation(chip: Chip, spoil: Spoil) -> Conversation[Any]:
    blob = _delegate(chip)
    forged = replace(blob, integrity_digest=spoil(blob.integrity_digest))
    return tss12.load_owner_delegation(0, forged, owner_auth=OWNER_AUTH, random=chip.client_random)


def link_to_a_new_secret(chip: Chip, spoil: Spoil) -> Conversation[Any]:
    """ChangeAuthAsymFinish, whose newAuthLink proves that the old secret is known."""
    random = chip.client_random
    identity = chip.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=USAGE_AUTH,
            label_digest=bytes(20),
            random=random,
        )
    )
    handle = keychain.load(chip, identity.key)
    ephemeral = chip.run(
        tss12.change_auth_asym_start(
            handle, identity.key.public_key, identity_auth=USAGE_AUTH, random=random
        )
    )
    signing = make_key(chip, signing_key())
    return tss12.change_auth_asym_finish(
        SRK,
        ephemeral,
        signing.enc_data,
        parent_auth=OWNER_AUTH,
        old_auth=spoil(USAGE_AUTH),
        new_auth=bytes(20),
        random=random,
    )


@pytest.mark.parametrize(
    ("scenario", "ordinal", "refusal"),
    [
        (proof_in_a_sealed_blob, Ordinal.UNSEAL, ReturnCode.NOTSEALED_BLOB),
        (proof_in_a_key, Ordinal.LOAD_KEY2, ReturnCode.INVALID_KEYUSAGE),
        (permission_to_migrate, Ordinal.CREATE_MIGRATION_BLOB, ReturnCode.MIGRATEFAIL),
        (integrity_of_a_context, Ordinal.LOAD_CONTEXT, ReturnCode.BADCONTEXT),
        (
            integrity_of_a_delegation,
            Ordinal.DELEGATE_LOAD_OWNER_DELEGATION,
            ReturnCode.AUTHFAIL,
        ),
        (link_to_a_new_secret, Ordinal.CHANGE_AUTH_ASYM_FINISH, ReturnCode.AUTHFAIL),
    ],
)
def test_every_other_secret_is_judged_by_its_comparison_alone(
    scenario: Scenario, ordinal: Ordinal, refusal: ReturnCode
) -> None:
    _assert_only_the_comparison_tells(make_owned_chip, scenario, ordinal, refusal, _in_scenario)


def _revocable_chip() -> Chip:
    chip = make_chip(Profile(make_ek=False))
    chip.assert_presence()
    chip.run(tss12.create_revocable_ek(random=chip.client_random, ek_reset=EK_RESET))
    return chip


def test_the_secret_of_revoke_trust_is_judged_by_its_comparison_alone() -> None:
    def revoke(_: Chip, spoil: Spoil) -> Conversation[Any]:
        return tss12.revoke_trust(spoil(EK_RESET))

    _assert_only_the_comparison_tells(
        _revocable_chip, revoke, Ordinal.REVOKE_TRUST, ReturnCode.AUTHFAIL, _in_scenario
    )


def test_the_test_itself_notices_an_early_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison with == leaves no compare_digest behind, and that fails."""

    class Careless:
        @staticmethod
        def compare_digest(one: bytes, other: bytes) -> bool:
            return one == other

    monkeypatch.setattr("tpmcore.tpm12.context.hmac", Careless)
    with pytest.raises(AssertionError, match="nothing was compared"):
        _assert_only_the_comparison_tells(
            make_owned_chip, key_by_oiap, Ordinal.SIGN, ReturnCode.AUTHFAIL, _last
        )


SECRET: Final = frozenset(
    {
        "auth",
        "auth_data",
        "auth_value",
        "area_auth",
        "blob_integrity",
        "context_key",
        "context_nonce",
        "context_nonce_key",
        "context_nonce_session",
        "daa_proof",
        "delegate_key",
        "deprecated_nonce",
        "ek_reset",
        "entity_digest",
        "expected",
        "hmac_key",
        "integrity_digest",
        "link",
        "mac",
        "migration_auth",
        "new_auth_link",
        "operator_auth",
        "owner_auth",
        "proof",
        "secret",
        "shared_secret",
        "stored_digest",
        "tpm_proof",
        "usage_auth",
    }
)
"""Names that hold secrets, or what only who knows one can make."""


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return _name(function).lstrip("_")
        case _:
            return ""


def _compared_secrets(tree: ast.AST) -> Iterator[int]:
    """Give the lines where == or its like looks at a secret; at a constant it may."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [_name(side) for side in (node.left, *node.comparators)]
        equality = any(
            isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for operator in node.ops
        )
        if equality and SECRET & set(sides) and not any(side.isupper() for side in sides):
            yield node.lineno


def test_no_secret_is_compared_with_an_operator() -> None:
    found = [
        f"{path.name}:{line}"
        for path in sorted(Path(tpmcore.__file__ or "").parent.rglob("*.py"))
        for line in _compared_secrets(ast.parse(path.read_text()))
    ]
    assert found == []
