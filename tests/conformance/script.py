# SPDX-License-Identifier: Apache-2.0
"""How a case is written: what it can do with a machine, and what is recorded of it.

A case is a function decorated with `case` that gets a `Script`. `script.call` sends one command,
given as the values of the request's fields, and says which return code it must end in; unless told
otherwise that is success. Every command and response is recorded, those of conversations of
`tpmcore.tss12` included (`script.run`). A call whose code is wrong on the engine fails the case; on
the reference it is a difference, and the case goes on as far as it can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar

from protocol.errors import WireError
from protocol.tpm12.constants import (
    LOCALITY_ALL,
    PCR_COUNT,
    AdipScheme,
    CapabilityArea,
    EncScheme,
    EntityType,
    KeyUsage,
    Ordinal,
    PhysicalPresenceFlags,
    ProtocolId,
    ReservedHandle,
    ReturnCode,
    SigScheme,
    StartupType,
    Tag,
)
from protocol.tpm12.framing import HEADER_BYTES, build_message, parse_header
from protocol.tpm12.keys import Key, PubKey
from protocol.tpm12.pcr import PcrInfoLong, PcrSelection, composite_hash
from protocol.tpm12.wire import Reader, Structure
from tests.conformance.machines import Machine, World
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tpm12.primitives import aes128_ctr
from tpmcore.tpm12.table import TABLE
from tpmcore.tss12 import Authorization, Conversation, ResponseError, Session

T = TypeVar("T")

USAGE_AUTH: Final = b"usage-secret-of-key!"
MIGRATION_AUTH: Final = b"migration-secret-key"
WRONG_AUTH: Final = b"nobody's secret-----"
DIGEST: Final = bytes(range(20))
SRK: Final = ReservedHandle.SRK
_NO_SESSION: Final = 0x00DEAD00
"""Handles of sessions are random; no TPM of a test run hands this one out."""

Mask: TypeAlias = Callable[[bytes], object]
"""Turns a field's bytes into what of them must be equal."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One command and its response.

    Attributes:
        step: number of the action of the case that sent it.
        locality: where it was sent.
        masks: of the response's fields, in addition to those of the ordinal.
    """

    step: int
    locality: int
    command: bytes
    response: bytes
    masks: Mapping[str, Mask]

    @property
    def ordinal(self) -> int:
        """The ordinal of the command; 0 if it is too short to have one."""
        return int.from_bytes(self.command[6:10], "big") if len(self.command) >= 10 else 0

    @property
    def code(self) -> int:
        """The return code."""
        return parse_header(self.response).code


@dataclass(frozen=True, slots=True)
class Tried:
    """That a case expects an ordinal to end in a return code."""

    ordinal: int
    code: int


class Unexpected(AssertionError):
    """The engine ended a command with another code than the case says."""


class Abandoned(Exception):
    """The reference does something so different that the rest of the case has no meaning."""


@dataclass(frozen=True, slots=True, repr=False)
class Auth:
    """An authorization session and the secret to use it with.

    Attributes:
        keep: whether it is to stay open.
        spoil: whether the HMAC is to be wrong.
        nonce_odd: 20 bytes, where a case must know them before; empty draws them.
    """

    session: Session
    secret: bytes = b""
    keep: bool = False
    spoil: bool = False
    nonce_odd: bytes = b""


@dataclass(slots=True)
class Script:
    """One run of a case on one machine.

    Attributes:
        log: what was sent and received.
        tried: the ordinals and codes that the case names.
        unexpected: step, ordinal, named and found code of each command that ended in another code.
    """

    machine: Machine
    wrapped_keys: dict[tuple[str, str], Key]
    strict: bool
    locality: int = 0
    log: list[Exchange] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    unexpected: list[tuple[int, int, int, int]] = field(default_factory=list)
    random: SeededRandom = field(default_factory=lambda: SeededRandom("client"))
    _step: int = 0
    _masks: Mapping[str, Mask] = field(default_factory=dict)

    def _send(self, command: bytes) -> bytes:
        response = self.machine.send(command, self.locality)
        self.log.append(Exchange(self._step, self.locality, command, response, self._masks))
        return response

    def _expect(self, ordinal: int, code: int, found: int) -> None:
        self.tried.append(Tried(ordinal, code))
        if code != found:
            self.unexpected.append((self._step, ordinal, code, found))
        if self.strict and code != found:
            name = Ordinal(ordinal).name if ordinal in set(Ordinal) else hex(ordinal)
            raise Unexpected(
                f"step {self._step}: {name} is to end in {ReturnCode(code).name}, not in {found}"
            )

    def raw(self, command: bytes, *, code: ReturnCode = ReturnCode.SUCCESS) -> bytes:
        """Send bytes as they are and return the response."""
        self._step += 1
        response = self._send(command)
        ordinal = int.from_bytes(command[6:10], "big") if len(command) >= HEADER_BYTES else 0
        self._expect(ordinal, code, parse_header(response).code)
        return response

    def probe(
        self,
        command: bytes,
        code: ReturnCode | None = None,
        *,
        masks: Mapping[str, Mask] | None = None,
    ) -> None:
        """Send bytes whose answer is compared; the engine's code matters only if one is given."""
        self._step += 1
        self._masks = masks or {}
        response = self._send(command)
        self._masks = {}
        if code is not None:
            ordinal = int.from_bytes(command[6:10], "big")
            self._expect(ordinal, code, parse_header(response).code)

    def run(self, conversation: Conversation[T], *, masks: Mapping[str, Mask] | None = None) -> T:
        """Run a conversation that must succeed."""
        self._step += 1
        self._masks = masks or {}
        start = len(self.log)
        try:
            result = tss12.run_sync(self._send, conversation)
        except (TpmError, ResponseError, WireError) as error:
            if self.strict:
                raise
            raise Abandoned(f"step {self._step}: {error}") from error
        finally:
            self._masks = {}
        for exchange in self.log[start:]:
            self.tried.append(Tried(exchange.ordinal, exchange.code))
        return result

    def fails(self, conversation: Conversation[T], ordinal: Ordinal, code: ReturnCode) -> None:
        """Run a conversation that must end in an error, that of the ordinal."""
        self._step += 1
        found: int = ReturnCode.SUCCESS
        try:
            tss12.run_sync(self._send, conversation)
        except TpmError as error:
            found = error.code
        except (ResponseError, WireError) as error:
            if self.strict:
                raise
            raise Abandoned(f"step {self._step}: {error}") from error
        self._expect(ordinal, code, found)

    def call(
        self,
        ordinal: Ordinal,
        *values: object,
        auth: Sequence[Auth] = (),
        code: ReturnCode | None = ReturnCode.SUCCESS,
        body: bytes | None = None,
        masks: Mapping[str, Mask] | None = None,
        response: type[Structure] | None = None,
    ) -> Structure | None:
        """Send one command.

        Args:
            values: the fields of its request, or its `body` as bytes.
            auth: its authorization blocks.
            code: what it must end in; None if it only has to be the same on both machines.
            masks: fields of the response that may differ, see comparison.
            response: its type, where it is not that of the table.

        Returns: the parsed response; None unless it was a success.
        """
        self._step += 1
        row = TABLE[ordinal]
        encoded = row.request(*values).encode() if body is None else body
        handles, parameters = encoded[: row.handles_in], encoded[row.handles_in :]

        def parse(reader: Reader) -> Structure:
            return (response or row.response).read(reader)

        self._masks = masks or {}
        result: Structure | None = None
        found: int = ReturnCode.SUCCESS
        try:
            result = tss12.run_sync(
                self._send,
                tss12.execute(
                    ordinal,
                    parse,
                    handles=handles,
                    parameters=parameters,
                    auths=[self._authorization(each) for each in auth],
                    handles_out=row.handles_out,
                ),
            )
        except TpmError as error:
            found = error.code
        except (WireError, ResponseError) as error:
            if self.strict:
                raise
            raise Abandoned(f"step {self._step}: {error}") from error
        finally:
            self._masks = {}
        if code is not None:
            self._expect(ordinal, code, found)
        return result

    def _authorization(self, auth: Auth) -> Authorization:
        secret = auth.session.shared_secret or auth.secret
        if auth.spoil:
            secret = WRONG_AUTH
        nonce_odd = auth.nonce_odd or self.random.random(20)
        return Authorization(auth.session, secret, nonce_odd, auth.keep)

    # Sessions. Opening one is part of the step that uses it, and must succeed.

    def _open(self, conversation: Conversation[Session]) -> Session:
        try:
            session = tss12.run_sync(self._send, conversation)
        except TpmError as error:
            if self.strict:
                raise
            raise Abandoned(f"no session: {error}") from error
        self.tried.append(Tried(self.log[-1].ordinal, ReturnCode.SUCCESS))
        return session

    def oiap(self, secret: bytes = OWNER_AUTH, *, keep: bool = False, spoil: bool = False) -> Auth:
        """Open an OIAP session, for the owner unless another secret is given."""
        return Auth(self._open(tss12.oiap()), secret, keep, spoil)

    def osap_owner(self, *, spoil: bool = False, keep: bool = False) -> Auth:
        """Open an OSAP session on the owner."""
        session = self._open(tss12.osap_owner(OWNER_AUTH, random=self.random))
        return Auth(session, keep=keep, spoil=spoil)

    def osap(
        self,
        kind: EntityType,
        value: int,
        secret: bytes,
        *,
        spoil: bool = False,
        keep: bool = False,
        adip: AdipScheme = AdipScheme.XOR,
    ) -> Auth:
        """Open an OSAP session on an entity."""
        session = self._open(tss12.osap(kind, value, secret, random=self.random, adip=adip))
        return Auth(session, keep=keep, spoil=spoil)

    def osap_key(
        self,
        handle: int = SRK,
        secret: bytes = SRK_AUTH,
        *,
        spoil: bool = False,
        keep: bool = False,
    ) -> Auth:
        """Open an OSAP session on a key."""
        session = self._open(tss12.osap_key(handle, secret, random=self.random))
        return Auth(session, keep=keep, spoil=spoil)

    def no_session(self, secret: bytes = OWNER_AUTH) -> Auth:
        """Return what names a session that is not open."""
        return Auth(Session(_NO_SESSION, ProtocolId.OIAP, bytes(20)), secret)

    def encrypt(self, auth: Auth, secret: bytes, *, nonce: bytes | None = None) -> bytes:
        """Encrypt a new secret under an OSAP session."""
        return tss12.encrypt_secret(auth.session, secret, nonce=nonce)

    def encrypt_aes(self, auth: Auth, secret: bytes, *, nonce: bytes | None = None) -> bytes:
        """Encrypt a new secret under an OSAP session whose ADIP scheme is AES."""
        session = auth.session
        return aes128_ctr(session.shared_secret[:16], (nonce or session.nonce_even)[:16], secret)

    def public(self, handle: ReservedHandle = ReservedHandle.SRK) -> PubKey:
        """Return the public part of the SRK or the EK, to encrypt for it."""
        return self.run(
            tss12.owner_read_internal_pub(handle, owner_auth=OWNER_AUTH, random=self.random)
        )

    # Keys

    def wrapped(self, name: str) -> Key:
        """Return the key of this name (see KEYS, IDENTITIES), made once for all cases."""
        made = self.wrapped_keys.get((self.machine.name, name))
        if made is None:
            made = self.wrapped_keys[(self.machine.name, name)] = tss12.run_sync(
                lambda command: self.machine.send(command, self.locality), self._make(name)
            )
        return made

    def _make(self, name: str) -> Conversation[Key]:
        # Of its own, so that what a case draws does not depend on which keys are there already.
        random = SeededRandom(f"key {name}")
        if name not in IDENTITIES:
            return (
                yield from tss12.create_wrap_key(
                    SRK,
                    KEYS[name],
                    parent_auth=SRK_AUTH,
                    usage_auth=USAGE_AUTH,
                    migration_auth=MIGRATION_AUTH,
                    random=random,
                )
            )
        identity = yield from tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=USAGE_AUTH,
            label_digest=DIGEST,
            params=IDENTITIES[name],
            random=random,
        )
        return identity.key

    def load(self, name: str) -> int:
        """Load the key of this name and return its handle."""
        key = self.wrapped(name)
        return self.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=self.random))

    # States

    def power_cycle(self, startup: StartupType | None = StartupType.CLEAR) -> None:
        """Send TPM_Init, and start the TPM up unless startup is None."""
        self.machine.power_cycle()
        if startup is not None:
            self.run(tss12.startup(startup))

    def presence(self, *, asserted: bool = True) -> None:
        """Assert physical presence by command, or take it back."""
        flag = PhysicalPresenceFlags.PRESENT if asserted else PhysicalPresenceFlags.NOTPRESENT
        self.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE))
        self.run(tss12.tsc_physical_presence(flag))

    def capability(self, area: int, sub: bytes | int = b"", mask: Mask | None = None) -> bytes:
        """Ask for a capability that must be there."""
        encoded = sub.to_bytes(4, "big") if isinstance(sub, int) else sub
        masks = None if mask is None else {"resp": mask}
        return self.run(tss12.get_capability(CapabilityArea(area), encoded), masks=masks)

    def flags(self) -> None:
        """Compare the permanent and the volatile flags, the effect of most commands."""
        self.capability(4, 0x108)
        self.capability(4, 0x109)

    def owner_installed(self) -> None:
        """Compare whether there is an owner."""
        self.capability(5, 0x111)


def _template(
    usage: KeyUsage,
    enc: EncScheme,
    sig: SigScheme,
    *,
    bits: int = 1024,
    flags: int = 0,
    auth_data_usage: int = 1,
    pcr_info: PcrInfoLong | None = None,
) -> Key:
    return Key.template(
        usage,
        enc_scheme=enc,
        sig_scheme=sig,
        bits=bits,
        flags=flags,
        auth_data_usage=auth_data_usage,
        pcr_info=pcr_info,
        is_key12=pcr_info is not None,
    )


_OAEP: Final = EncScheme.RSAESOAEP_SHA1_MGF1
_SIGN: Final = (KeyUsage.SIGNING, EncScheme.NONE)
_STORE: Final = (KeyUsage.STORAGE, _OAEP, SigScheme.NONE)

PCR_16: Final = PcrSelection.of([16])
AT_RESET: Final = composite_hash(PCR_16, [bytes(20)] * PCR_COUNT)
"""The composite of PCR 16 as it is after a reset."""


def release_info(digest: bytes = AT_RESET, *, localities: int = LOCALITY_ALL) -> PcrInfoLong:
    """Release when PCR 16 has a value, at some localities."""
    return PcrInfoLong(1, localities, PCR_16, PCR_16, bytes(20), digest)


_HERE: Final = release_info(localities=1)
"""PCR 16 is as after a reset, and the locality is 0."""

KEYS: Final[Mapping[str, Key]] = {
    "sign": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_SHA1),
    "sign-der": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_DER),
    "sign-info": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_INFO),
    "sign-open": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_SHA1, auth_data_usage=0),
    "sign-readable": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_SHA1, auth_data_usage=3),
    "sign-migratable": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_SHA1, flags=2),
    "sign-volatile": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_SHA1, flags=4),
    "storage": _template(*_STORE, bits=2048),
    "storage-open": _template(*_STORE, bits=2048, auth_data_usage=0),
    "storage-migratable": _template(*_STORE, bits=2048, flags=2),
    "bind": _template(KeyUsage.BIND, _OAEP, SigScheme.NONE),
    "bind-open": _template(KeyUsage.BIND, _OAEP, SigScheme.NONE, auth_data_usage=0),
    "bind-pkcs": _template(KeyUsage.BIND, EncScheme.RSAESPKCSV15, SigScheme.NONE),
    "legacy": _template(KeyUsage.LEGACY, EncScheme.RSAESPKCSV15, SigScheme.RSASSAPKCS1V15_SHA1),
    "migrate": _template(KeyUsage.MIGRATE, _OAEP, SigScheme.NONE, bits=2048),
    "legacy-oaep": _template(KeyUsage.LEGACY, _OAEP, SigScheme.RSASSAPKCS1V15_SHA1),
    "sign-info-open": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_INFO, auth_data_usage=0),
    "sign-bound": _template(*_SIGN, SigScheme.RSASSAPKCS1V15_SHA1, pcr_info=_HERE),
    "sign-bound-readable": _template(
        *_SIGN, SigScheme.RSASSAPKCS1V15_SHA1, flags=8, pcr_info=_HERE
    ),
    "bind-bound": _template(KeyUsage.BIND, _OAEP, SigScheme.NONE, pcr_info=_HERE),
    "storage-bound": _template(*_STORE, bits=2048, pcr_info=_HERE),
    "migrate-bound": _template(KeyUsage.MIGRATE, _OAEP, SigScheme.NONE, bits=2048, pcr_info=_HERE),
}
"""Keys below the SRK, by name: what `Script.wrapped` has made."""

IDENTITIES: Final[Mapping[str, Key]] = {
    "identity": tss12.identity_template(),
    "identity-bound": replace(tss12.identity_template(is_key12=True), pcr_info=_HERE),
    "identity-open": replace(tss12.identity_template(), auth_data_usage=0),
}
"""Identity keys, which only TPM_MakeIdentity makes."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        name: the function's name, unique.
        ordinals: what it is about, for the table of the document.
        start_up: whether the machine is started up with CLEAR before.
        within_s: how long it may take on a machine whose clock it cannot set; afterwards the
            machine may rightly answer something else.
    """

    name: str
    world: World
    ordinals: tuple[int, ...]
    start_up: bool
    play: Callable[[Script], None]
    within_s: float = math.inf


class Chapter:
    """The cases of one module, in order."""

    def __init__(self, within_s: float = math.inf) -> None:
        self.cases: list[Case] = []
        self._within_s = within_s

    def case(
        self, world: World, *ordinals: int, start_up: bool = True
    ) -> Callable[[Callable[[Script], None]], Callable[[Script], None]]:
        """Register a case about some ordinals that begins in a world."""

        def register(play: Callable[[Script], None]) -> Callable[[Script], None]:
            self.cases.append(Case(play.__name__, world, ordinals, start_up, play, self._within_s))
            return play

        return register


def message(ordinal: int, body: bytes = b"", tag: int = Tag.RQU_COMMAND) -> bytes:
    """Return a command of these bytes."""
    return build_message(tag, ordinal, body)
