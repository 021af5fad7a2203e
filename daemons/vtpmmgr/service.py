# SPDX-License-Identifier: Apache-2.0
"""The commands, as vTPMs send them over the split driver.

A connection is admitted if its uid may have the uuid that it claims. It is *bound* to its vTPM by
its first SAVEHASHKEY or LOADHASHKEY; from then on no other connection gets that vTPM until it has
hung up. Commands to the hardware TPM that need no vTPM (random bytes, PCR values) need no binding.

No request raises: what cannot be parsed or is not allowed gets a return code. An exception that
leaves `request` is a broken database or disk, and ends the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, assert_never
from uuid import UUID

import trio

from daemons.runtime.control import Fields
from daemons.runtime.errors import DaemonError
from daemons.runtime.log import Log
from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer
from daemons.vtpmmgr.guestquotes import GuestQuotes
from daemons.vtpmmgr.hardware import Hardware, HardwareLost
from daemons.vtpmmgr.identity import (
    Client,
    ClientTable,
    approved_kern_hash,
    effective_label,
)
from daemons.vtpmmgr.keyring import GroupClosed
from daemons.vtpmmgr.ledger import Ledger, Transaction
from daemons.vtpmmgr.management import Management, UnknownOrdinal
from daemons.vtpmmgr.movestates import Event, NotNow, advance, standing_in
from daemons.vtpmmgr.openings import Openings
from daemons.vtpmmgr.records import ADMIN_SUSPENDED, PolicyRecord, VtpmRecord
from daemons.vtpmmgr.statekeys import NotGiven, StateKeys
from daemons.vtpmmgr.turns import Withdrawn
from protocol.errors import WireError
from protocol.manager.constants import (
    DIGEST_BYTES,
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    ManagerCode,
    ManagerTag,
    VtpmOrdinal,
)
from protocol.manager.framing import (
    Request,
    error_response,
    error_tag,
    parse_request,
    success_response,
)
from protocol.manager.labels import label_hash
from protocol.manager.messages import (
    GetQuote,
    decode_empty,
    decode_save_hash_key,
    encode_load_hash_key_body,
)
from protocol.manager.passthrough import PASS_THROUGH_TAGS, PassThroughOrdinal, judge
from protocol.manager.statekeys import decode_descriptor
from protocol.tpm12.pcr import PcrSelection
from protocol.tpmif.errors import Refused
from protocol.tpmif.unix import BackendDevice, PeerCredentials
from tpmcore.errors import TpmError

AUTO_CREATE_GROUP: Final = 0
"""The group in which a vTPM of the configuration comes into being with its first save."""

CONNECTIONS_PER_VTPM: Final = 4
"""A vTPM has one; more only while a dead one's end is not noticed. Whoever may be one vTPM must not
take the places of all others."""

PROBE_DEADLINE_S: Final = 5.0
"""How long the hardware TPM may take to tell that it is there; its turn may come late."""

_UNBOUND_HASH: Final = bytes(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class SaveKeyData:
    """SAVEHASHKEY: replace the key data of a vTPM, making the vTPM if it may make itself.

    Attributes:
        uuid: of the vTPM.
        group: number of the group that the configuration gives it.
        data: 64 bytes.
        label: of a connection that is not bound yet, to be approved; None for one that is.
    """

    uuid: UUID
    group: int
    data: Secret
    label: str | None

    def apply(self, transaction: Transaction) -> bytes:
        """Make the change; gives the kern_hash of the label, nothing for a bound connection."""
        group = transaction.group(self.group)
        record = transaction.get(VtpmRecord, self.uuid.bytes)
        if record is None:
            _check_not_moving(transaction, self.uuid)
            if self.group != AUTO_CREATE_GROUP:
                raise CommandRefused(ManagerCode.BAD_PARAMETER)
        if group is None or (record is not None and record.group != group.uuid):
            raise CommandRefused(ManagerCode.FAIL)
        kern_hash = b""
        if self.label is not None:
            policy = transaction.get(PolicyRecord, group.uuid.bytes)
            kern_hash = _approved(policy, self.label)
        envelope = transaction.keys.wrap_data(group, self.uuid, self.data)
        flags = 0 if record is None else record.flags
        transaction.put(VtpmRecord(self.uuid, group.uuid, flags, envelope))
        return kern_hash


def _check_not_moving(view: Ledger | Transaction, vtpm: UUID) -> None:
    """See that a vTPM that is not in service here may be new; CommandRefused(DISABLED) if not."""
    try:
        advance(standing_in(view, vtpm), Event.CREATE)
    except NotNow as error:
        raise CommandRefused(ManagerCode.DISABLED) from error


def _approved(policy: PolicyRecord | None, label: str) -> bytes:
    """Return the kern_hash of a label; CommandRefused(DISABLED) if its group does not approve."""
    if policy is None:
        return label_hash(label)
    found = approved_kern_hash(policy.config_list, label)
    if found is None:
        raise CommandRefused(ManagerCode.DISABLED)
    return found


@dataclass(slots=True, eq=False)
class _Session:
    """What is known of one connection.

    Attributes:
        device: the connection.
        client: its entry in the table; another one after a reload.
        label: that counts for it.
        kern_hash: zeros until bound.
        bound: whether a SAVEHASHKEY or LOADHASHKEY succeeded.
        told: return codes that were logged for it, and reasons; each is logged once.
    """

    device: BackendDevice
    client: Client
    label: str
    kern_hash: bytes
    bound: bool
    told: set[int | str]

    def hung_up(self) -> bool:
        """Say whether the other end is gone."""
        return self.device.hung_up()


class ManagerService:
    """Handler of the split driver's backend.

    Args:
        clients: who may be which vTPM.
        committer: for changes and for reads behind them.
        hardware: for what is passed through, and for quotes.
        management: commands of those with the ADMIN right.
        openings: who has which vTPM open.
        log: of the daemon.
        connections_changed: told how many vTPMs are connected.
    """

    def __init__(
        self,
        clients: ClientTable,
        committer: Committer,
        hardware: Hardware,
        management: Management,
        openings: Openings,
        log: Log,
        connections_changed: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._clients = clients
        self._committer = committer
        self._hardware = hardware
        self._management = management
        self._openings = openings
        self._quotes = GuestQuotes(committer, hardware)
        self._state_keys = StateKeys(committer, hardware, log)
        self._log = log
        self._connections_changed = connections_changed
        # By serial number of the connection.
        self._sessions: dict[int, _Session] = {}
        # Users whose refusal was logged; one that insists must not fill the log.
        self._refused_uids: set[int] = set()

    def gives_admin(self, uuid: UUID) -> bool:
        """Say whether the configuration gives a vTPM the right to send management commands."""
        return self._clients.gives_admin(uuid)

    def set_clients(self, clients: ClientTable) -> None:
        """Have another table count.

        For who connects, and for who is connected from its next request on; but a label belongs to
        a connection once it was approved. Connections that the table does not admit end; the
        others are not disturbed.
        """
        self._clients = clients
        self._refused_uids.clear()
        for session in self._sessions.values():
            device = session.device
            try:
                client = clients.admit(device.peer.uid, device.uuid)
            except Refused as refusal:
                self._log.warning("client disconnected", uuid=device.uuid, reason=refusal)
                device.disconnect_nowait()
            else:
                session.client = client
                if not session.bound:
                    session.label = effective_label(device.peer.label, client)

    def admit(self, peer: PeerCredentials, uuid: UUID) -> None:
        """Let a peer in.

        Raises:
            Refused: the table does not let this user be that vTPM.
        """
        try:
            self._clients.admit(peer.uid, uuid)
        except Refused:
            if peer.uid not in self._refused_uids:
                self._refused_uids.add(peer.uid)
                self._log.warning("client refused", uid=peer.uid, pid=peer.pid, uuid=uuid)
            raise

    async def opened(self, device: BackendDevice) -> None:
        """Take note of a connection.

        Raises:
            Refused: the vTPM has too many.
        """
        client = self._clients.admit(device.peer.uid, device.uuid)
        others = [one for one in self._sessions.values() if one.device.uuid == device.uuid]
        if sum(not one.device.hung_up() for one in others) >= CONNECTIONS_PER_VTPM:
            raise Refused(f"vTPM {device.uuid} has {CONNECTIONS_PER_VTPM} connections")
        label = effective_label(device.peer.label, client)
        self._sessions[device.serial] = _Session(device, client, label, _UNBOUND_HASH, False, set())
        self._connections_changed(len(self._sessions))
        self._log.info("vTPM connected", uuid=device.uuid, uid=device.peer.uid, pid=device.peer.pid)

    async def closed(self, device: BackendDevice) -> None:
        """Forget a connection; its vTPM may be opened again."""
        session = self._sessions.pop(device.serial)
        self._openings.release(device.uuid, session)
        self._connections_changed(len(self._sessions))
        self._log.info("vTPM gone", uuid=device.uuid)

    def cancel(self, device: BackendDevice) -> None:
        """Give up a command that still waits for the hardware TPM; no other can be taken back."""
        self._hardware.withdraw(device.serial)

    async def request(self, device: BackendDevice, request: bytes, locality: int) -> bytes | None:
        """Answer one request; None if it was withdrawn. The locality has no meaning here."""
        session = self._sessions[device.serial]
        try:
            return await self._dispatch(session, request)
        except CommandRefused as refusal:
            if not refusal.usual:
                self._note_refusal(session, request, refusal.code)
            return error_response(refusal.code)
        except _RefusedEarly as refusal:
            self._note_refusal(session, request, refusal.code)
            return error_response(refusal.code, error_tag(request))
        except Withdrawn:
            return None

    def status(self) -> Fields:
        """Return what the control socket's `status` shows."""
        commits = self._committer.statistics()
        return {
            "connections": len(self._sessions),
            "open": [str(uuid) for uuid in self._openings.uuids],
            "clients": len(self._clients),
            "sequence": commits.sequence,
            "commits": commits.commits,
            "saves": commits.mutations,
            "largest_commit": commits.largest,
            "waiting_saves": commits.waiting,
            "bound_sequence": commits.bound,
            "hardware_answers": self._hardware.answers,
            "commit_latency": commits.latencies.fields(),
        }

    async def probe_hardware(self) -> None:
        """Return if the hardware TPM answers now.

        Raises:
            DaemonError: it does not, or not in time.
        """
        try:
            with trio.fail_after(PROBE_DEADLINE_S):
                await self._hardware.probe()
        except trio.TooSlowError as error:
            raise DaemonError(
                f"the hardware TPM did not answer within {PROBE_DEADLINE_S:g} s"
            ) from error
        except TpmError as error:
            raise DaemonError(f"the hardware TPM refuses to tell its version: {error}") from error

    async def _dispatch(self, session: _Session, message: bytes) -> bytes:
        try:
            request = parse_request(message)
        except WireError:
            raise _RefusedEarly(ManagerCode.BAD_PARAMETER) from None
        if request.tag == ManagerTag.REQ:
            return await self._for_vtpm(session, request)
        if request.tag in PASS_THROUGH_TAGS:
            return await self._pass_through(session, request, message)
        if request.tag == ManagerTag.REQ2:
            if not await self._is_admin(session):
                raise _RefusedEarly(ManagerCode.AUTHFAIL)
            try:
                return success_response(
                    await self._management.execute(request, MAX_MESSAGE_BYTES - HEADER_BYTES)
                )
            except UnknownOrdinal:
                raise _RefusedEarly(ManagerCode.BAD_ORDINAL) from None
        raise _RefusedEarly(ManagerCode.BADTAG)

    async def _for_vtpm(self, session: _Session, request: Request) -> bytes:
        try:
            ordinal = VtpmOrdinal(request.ordinal)
        except ValueError:
            raise _RefusedEarly(ManagerCode.BAD_ORDINAL) from None
        try:
            match ordinal:
                case VtpmOrdinal.SAVEHASHKEY:
                    await self._save(session, Secret(decode_save_hash_key(request.body)))
                    return success_response()
                case VtpmOrdinal.LOADHASHKEY:
                    decode_empty(request.body)
                    return success_response(encode_load_hash_key_body(await self._load(session)))
                case VtpmOrdinal.GET_BOOT_HASH:
                    decode_empty(request.body)
                    return success_response(session.kern_hash)
                case VtpmOrdinal.GET_QUOTE:
                    return success_response(await self._quote(session, request.body))
                case VtpmOrdinal.STATE_KEY_NEW:
                    decode_empty(request.body)
                    _check_bound(session)
                    made = await self._state_keys.new(session.client, session.device.serial)
                    return success_response(made.encode())
                case VtpmOrdinal.STATE_KEY_OPEN:
                    descriptor = decode_descriptor(request.body)
                    _check_bound(session)
                    return success_response(await self._state_keys.open(session.client, descriptor))
                case _:
                    assert_never(ordinal)
        except WireError:
            raise CommandRefused(ManagerCode.BAD_PARAMETER) from None
        except GroupClosed:
            raise CommandRefused(ManagerCode.AUTHFAIL) from None
        except NotGiven as refusal:
            self._note_not_given(session, refusal.reason)
            raise

    async def _save(self, session: _Session, data: Secret) -> None:
        client = session.client
        label = None if session.bound else session.label
        with self._held(session):
            kern_hash = await self._committer.submit(
                SaveKeyData(client.uuid, client.group, data, label)
            )
            if label is not None:
                session.kern_hash, session.bound = kern_hash, True

    async def _load(self, session: _Session) -> Secret:
        client = session.client

        def load(ledger: Ledger) -> tuple[Secret, bytes] | None:
            record = ledger.get(VtpmRecord, client.uuid.bytes)
            if record is None:
                _check_not_moving(ledger, client.uuid)
                return None
            group = ledger.group(client.group)
            if group is None or record.group != group.uuid:
                raise CommandRefused(ManagerCode.FAIL)
            kern_hash = session.kern_hash
            if not session.bound:
                policy = ledger.get(PolicyRecord, group.uuid.bytes)
                kern_hash = _approved(policy, session.label)
            return ledger.keys.unwrap_data(group, record), kern_hash

        with self._held(session):
            found = await self._committer.read(client.uuid, load)
            if found is None:
                # how a new vTPM finds out that it is new
                raise CommandRefused(ManagerCode.BAD_PARAMETER, usual=True)
            data, session.kern_hash = found
            session.bound = True
        return data

    @contextmanager
    def _held(self, session: _Session) -> Iterator[None]:
        """Make this connection the one that has its vTPM; it keeps it if it gets bound.

        A connection that is refused must not keep the real one out.
        """
        uuid = session.client.uuid
        self._openings.hold(uuid, session)
        try:
            yield
        finally:
            if not session.bound:
                self._openings.release(uuid, session)

    async def _quote(self, session: _Session, body: bytes) -> bytes:
        asked = GetQuote.decode(body)
        selection = PcrSelection.decode(asked.pcr_selection)
        if not session.bound:
            raise CommandRefused(ManagerCode.BAD_PARAMETER)
        return await self._quotes.quote(
            session.client,
            session.kern_hash,
            extern_data=asked.extern_data,
            selection=selection,
            flags=asked.flags,
            source=session.device.serial,
        )

    async def _is_admin(self, session: _Session) -> bool:
        if not (session.bound and self._clients.gives_admin(session.client.uuid)):
            return False
        uuid = session.client.uuid
        record = await self._committer.read(uuid, lambda ledger: ledger.get(VtpmRecord, uuid.bytes))
        return record is not None and not record.flags & ADMIN_SUSPENDED

    async def _pass_through(self, session: _Session, request: Request, message: bytes) -> bytes:
        admin = request.ordinal == PassThroughOrdinal.EXTEND and await self._is_admin(session)
        code = judge(request, admin=admin)
        if code != ManagerCode.SUCCESS:
            raise _RefusedEarly(code)
        try:
            response = await self._hardware.pass_through(message, session.device.serial)
        except HardwareLost as error:
            self._log.warning("hardware TPM unreachable", reason=error)
            raise _RefusedEarly(ManagerCode.IOERROR) from error
        if len(response) > MAX_MESSAGE_BYTES:
            raise _RefusedEarly(ManagerCode.SIZE)
        return response

    def _note_refusal(self, session: _Session, message: bytes, code: int) -> None:
        """Log the first refusal of each kind; a client that insists must not fill the log."""
        if code in session.told:
            return
        session.told.add(code)
        self._log.warning(
            "request refused", uuid=session.client.uuid, header=message[:10].hex(), code=code
        )

    def _note_not_given(self, session: _Session, reason: str) -> None:
        """Log the first refusal of a key for each reason, as `_note_refusal` does."""
        if reason not in session.told:
            session.told.add(reason)
            self._log.warning("state key refused", uuid=session.client.uuid, reason=reason)


def _check_bound(session: _Session) -> None:
    if not session.bound:
        raise CommandRefused(ManagerCode.DISABLED)


class _RefusedEarly(Exception):
    """A refusal before any command ran; its response has the request's tag + 3."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with code {code:#x}")
        self.code = code
