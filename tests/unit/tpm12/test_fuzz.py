# SPDX-License-Identifier: Apache-2.0
"""The short part of the fuzzer: the corpus as it is, some thousand mutations, all findings."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from protocol.errors import WireError
from protocol.tpm12.constants import (
    Algorithm,
    EncScheme,
    Ordinal,
    ReservedHandle,
    ReturnCode,
    StructureTag,
    Tag,
)
from protocol.tpm12.framing import build_message, parse_header
from protocol.tpm12.keys import Key
from protocol.tpm12.pcr import PcrInfoLong, PcrSelection, composite_hash
from protocol.tpm12.transport import TransportAuth, TransportPublic
from protocol.tpm12.wire import SIZED, U16, U32
from tests.fuzz import campaign
from tests.fuzz.campaign import Campaign, Failure, replay, write_finding
from tests.fuzz.chips import prepare
from tests.fuzz.client import Client, Talk, inside_of_transport
from tests.fuzz.corpus import ROWS, findings, read_seeds
from tests.fuzz.dice import Dice
from tests.fuzz.openers import OIAP
from tests.fuzz.sign import Signer
from tests.fuzz.steps import Kind, Step, read_steps, send, write_steps
from tests.fuzz.talks import OWNED, UNOWNED, WRAPPABLE
from tests.fuzz.target import Broken, Snapshot, Target
from tests.unit.tpm12.daa_issuer import JOIN_END, SIGN_END
from tests.unit.tpm12.keychain import (
    MIGRATION_AUTH,
    SRK,
    USAGE_AUTH,
    encrypt_oaep,
    signing_key,
    srk_modulus,
)
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation, run_sync
from tpmcore.tss12.errors import ResponseError

RUNS = 12


@functools.cache
def _chips() -> Mapping[str, Snapshot]:
    return prepare()


def test_every_ordinal_of_the_table_has_a_seed() -> None:
    missing = sorted(Ordinal(ordinal).name for ordinal in ROWS.keys() - read_seeds().keys())
    assert not missing, "python -m tests.fuzz.record records them from the unit tests"


@pytest.mark.parametrize("name", ["furnished", "owned", "new", "unstarted", "small"])
def test_the_corpus_breaks_no_promise(name: str) -> None:
    snapshot = _chips()[name]
    target = Target(snapshot, "corpus")
    signer = Signer(Dice(name), snapshot.secrets)
    for ordinal, vectors in read_seeds().items():
        if len(target.tpm.stany.sessions) < 2:
            target.apply(send(bytes.fromhex("00c1 0000000a 0000000a")))
        for _, command in vectors:
            target.apply(send(command))
            if ordinal != Ordinal.OIAP:
                target.apply(send(signer.sign(command, target.tpm)))


@pytest.mark.parametrize("number", range(RUNS))
def test_mutated_commands_break_no_promise(number: int, tmp_path: Path) -> None:
    short = Campaign(f"short {number}", _chips(), read_seeds())
    try:
        tally = short.run(number)
    except Failure as failure:
        path = write_finding(tmp_path, f"short-{number}", failure)
        pytest.fail(f"{failure}; steps in {path}")
    assert tally.commands


def test_what_was_found_stays_repaired() -> None:
    found = dict(findings())
    assert found, "an empty folder would prove nothing"
    for name, steps in found.items():
        assert steps[-1].kind is Kind.ANSWERED, f"{name} does not say what its end is answered with"
        try:
            replay(steps, _chips())
        except Broken as error:
            pytest.fail(f"{name}: {error}")


def test_a_finding_that_no_longer_gets_where_it_got_is_noticed() -> None:
    # PCRRead of a PCR that is not there.
    steps = [Step(Kind.CHIP, 0, b"owned"), send(bytes.fromhex("00c1 0000000e 00000015 00000099"))]
    replay([*steps, Step(Kind.ANSWERED, ReturnCode.BADINDEX)], _chips())
    with pytest.raises(Broken, match="answered with 0x2, not 0x0"):
        replay([*steps, Step(Kind.ANSWERED, ReturnCode.SUCCESS)], _chips())


def test_either_structure_that_certify_key_may_answer_with_parses() -> None:
    """A key that is bound to PCR 16 is certified with TPM_CERTIFY_INFO2."""
    late = PcrSelection.of([16])
    at_zero = composite_hash(late, [bytes(20)] * 24)
    bound = signing_key(pcr_info=PcrInfoLong(1, 0x1F, late, late, bytes(20), at_zero))
    for template, tag in ((bound, StructureTag.CERTIFY_INFO2), (signing_key(), None)):
        target = Target(_chips()["owned"], "certify")
        responses = _certify(target, template)
        assert parse_header(responses[-1]).code == ReturnCode.SUCCESS
        assert (responses[-1][10:12] == U16.write(StructureTag.CERTIFY_INFO2)) == (tag is not None)


def _certify(target: Target, template: Key) -> list[bytes]:
    """Have a key of its own certified with one that signs, and return all responses."""
    random = SeededRandom("client")
    responses: list[bytes] = []

    def tell(command: bytes) -> bytes:
        responses.append(target.apply(send(command)))
        return responses[-1]

    handles = []
    for wanted in (signing_key(), template):
        key = run_sync(
            tell,
            tss12.create_wrap_key(
                SRK,
                wanted,
                parent_auth=SRK_AUTH,
                usage_auth=USAGE_AUTH,
                migration_auth=MIGRATION_AUTH,
                random=random,
            ),
        )
        loading = tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=random)
        handles.append(run_sync(tell, loading))
    certifying = tss12.certify_key(
        handles[0], handles[1], cert_auth=USAGE_AUTH, key_auth=USAGE_AUTH, random=random
    )
    # The client knows the older structure only.
    with contextlib.suppress(WireError):
        run_sync(tell, certifying)
    return responses


def test_a_finding_reads_back_as_it_was_written() -> None:
    steps = [Step(Kind.CHIP, 3, b"owned"), send(b"\x00\xc1", 4), Step(Kind.RESTART)]
    assert read_steps("# why\n\n" + write_steps(steps)) == steps


def test_a_fault_of_the_engine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(_chips()["owned"], "fault")
    monkeypatch.setattr(target.tpm.world.random, "random", lambda _size: 1 / 0)
    with pytest.raises(Broken, match="ZeroDivisionError"):
        target.apply(send(bytes.fromhex("00c1 0000000a 0000000a")))


def test_a_change_that_no_flag_announces_is_noticed() -> None:
    target = Target(_chips()["owned"], "flags")
    target.tpm.stclear.pcrs[0] = b"x" * 20
    with pytest.raises(Broken, match="volatile state"):
        target.apply(send(bytes.fromhex("00c1 0000000e 00000015 00000001")))
    target = Target(_chips()["owned"], "flags")
    target.tpm.permanent.flags.fips = True
    with pytest.raises(Broken, match="permanent state"):
        target.apply(send(bytes.fromhex("00c1 0000000e 00000015 00000001")))


@pytest.mark.parametrize("attributes", range(8))
def test_commands_inside_of_transport_sessions_are_reached(attributes: int) -> None:
    """Clear and encrypted, logged, exclusive."""
    target = Target(_chips()["owned"], "transport")
    signer = Signer(Dice(f"{attributes}"), {})
    public = TransportPublic(attributes, Algorithm.AES128, EncScheme.SYM_CTR)
    secret = encrypt_oaep(srk_modulus(), TransportAuth(bytes(20)).encode())
    establish = build_message(
        Tag.RQU_AUTH1_COMMAND,
        Ordinal.ESTABLISH_TRANSPORT,
        U32.write(ReservedHandle.SRK) + public.encode() + SIZED.write(secret) + bytes(45),
    )
    target.apply(send(OIAP))
    target.apply(send(signer.sign(establish, target.tpm)))
    (transport,) = target.tpm.stany.transports.values()
    inside = build_message(Tag.RQU_COMMAND, Ordinal.PCR_READ, U32.write(0))
    execute = build_message(
        Tag.RQU_AUTH1_COMMAND, Ordinal.EXECUTE_TRANSPORT, SIZED.write(inside) + bytes(45)
    )
    response = target.apply(send(signer.sign(execute, target.tpm)))
    assert transport.public.trans_attributes == attributes
    assert parse_header(response).code == ReturnCode.SUCCESS
    assert parse_header(response[26:]).code == ReturnCode.SUCCESS


def _teller(target: Target) -> Callable[[bytes], bytes]:
    return lambda command: target.apply(send(command))


@pytest.mark.parametrize("talk", OWNED, ids=lambda talk: talk.__name__.strip("_"))
def test_the_fuzzer_talks_to_the_end(talk: Talk) -> None:
    """Alone and inside of a transport session that encrypts and logs."""
    for number in range(3 if talk in WRAPPABLE else 1):
        target = Target(_chips()["furnished"], "talk")
        client = Client(functools.partial(getattr, target, "tpm"), Dice(f"{number}"))
        talking = inside_of_transport(client, talk) if number else talk(client)
        run_sync(_teller(target), talking)


class _LongestTalk(Dice):
    """Dice by which everything happens that seldom does."""

    def chance(self, percent: int) -> bool:
        """Return True."""
        return True


def test_the_fuzzer_joins_and_signs_to_the_end() -> None:
    """What a talk that may be short does at its longest."""
    target = Target(_chips()["furnished"], "talk")
    client = Client(lambda: target.tpm, _LongestTalk("join"))
    (join,) = [talk for talk in OWNED if talk.__name__ == "_join"]
    commands: list[bytes] = []

    def answer(command: bytes) -> bytes:
        commands.append(command)
        return target.apply(send(command))

    run_sync(answer, join(client))
    ordinals = [parse_header(command).code for command in commands]
    assert ordinals.count(Ordinal.DAA_JOIN) == JOIN_END + 2  # one stage is for two keys
    assert ordinals.count(Ordinal.DAA_SIGN) == SIGN_END + 1
    assert not target.tpm.stany.daa_sessions


def test_the_fuzzer_talks_to_a_chip_without_an_owner() -> None:
    target = Target(_chips()["unstarted"], "talk")
    client = Client(lambda: target.tpm, Dice("presence"))
    for talk in UNOWNED:
        # It has no endorsement key before the last one makes it.
        with contextlib.suppress(TpmError):
            run_sync(_teller(target), talk(client))
    run_sync(_teller(target), UNOWNED[1](client))
    assert target.tpm.permanent.owner_auth == OWNER_AUTH


@pytest.mark.parametrize("kind", [ResponseError, ValueError])
def test_a_client_of_the_fuzzer_checks_what_it_gets(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(_client: Client) -> Conversation[None]:
        yield OIAP
        raise kind("response HMAC does not verify")

    monkeypatch.setattr(campaign, "OWNED", (refusing,))
    monkeypatch.setattr(campaign, "UNOWNED", (refusing,))
    monkeypatch.setattr(campaign, "_TALKS_PER_MILLE", 900)
    refused = Campaign("refusing", _chips(), read_seeds())
    with pytest.raises(Failure, match="a client's check fails: response HMAC"):
        refused.run(0)
