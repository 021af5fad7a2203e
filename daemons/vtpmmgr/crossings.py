# SPDX-License-Identifier: Apache-2.0
"""What is looked at before anything of a vTPM crosses to another manager, at both ends.

A vTPM at rest crosses as a package of a move (`leaving`, `arriving`), the key of the state of a
running one as a package too (`statekeys`). For both the source sees that the target's key is bound
to a hardware TPM and that the group's agent approved this way, and has the group's identity key
vouch for what it made; the target sees that the same agent approved the source, and that the source
made it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar
from uuid import UUID

from daemons.runtime.secret import Secret
from daemons.vtpmmgr.commits import CommandRefused, Committer
from daemons.vtpmmgr.groupview import Group
from daemons.vtpmmgr.hardware import Hardware
from daemons.vtpmmgr.management import refused_by_hardware
from daemons.vtpmmgr.records import PolicyRecord, TransportKeyRecord
from daemons.vtpmmgr.sealing import composite_of
from protocol.manager import approval as approvals
from protocol.manager.constants import ManagerCode
from protocol.manager.moving import MoveApproval, TransportKey, Vouched, key_digest
from protocol.manager.transportkey import BadTransportKey, check_transport_key, is_quoted
from protocol.tpm12.keys import PubKey
from protocol.tpm12.pcr import PcrSelection
from protocol.tpm12.wire import Reader

V = TypeVar("V", bound=Vouched)


Refusals: TypeAlias = Callable[[ManagerCode, UUID, str], CommandRefused]
"""How a refusal is made of a code, the vTPM that it is about, and a reason for the log, which is
more than a code can say."""


@dataclass(frozen=True, slots=True)
class Party:
    """Our end of a crossing: a group that has an agent, and its transport key."""

    group: Group
    policy: PolicyRecord
    transport: TransportKeyRecord

    @classmethod
    def of(cls, group: Group | None, transport: TransportKeyRecord | None) -> Party | None:
        """Return a group as an end of crossings; None if it has no agent or transport key."""
        if group is None or group.policy is None or transport is None:
            return None
        return cls(group, group.policy, transport)

    def key_digest(self, manager: UUID) -> bytes:
        """Return what approvals name of our key."""
        public_key = PubKey.decode(self.transport.public_key)
        return key_digest(manager, public_key, self.transport.aik_modulus)


class Crossings:
    """The checks of one manager.

    Args:
        refusal: of the commands that use them.
    """

    def __init__(self, committer: Committer, hardware: Hardware, refusal: Refusals) -> None:
        self._committer = committer
        self._hardware = hardware
        self._refusal = refusal

    # --- at the source -----------------------------------------------------------------------

    def check_target(self, vtpm: UUID, target: TransportKey) -> None:
        """See that a transport key is bound to the hardware TPM of another manager."""
        try:
            check_transport_key(target)
        except BadTransportKey as error:
            raise self._refusal(ManagerCode.BAD_PARAMETER, vtpm, str(error)) from error
        if target.manager == self._committer.keys.manager:
            raise self._refusal(ManagerCode.BAD_PARAMETER, vtpm, "the target is the source")

    def check_departure(
        self, vtpm: UUID, source: Party, target: TransportKey, approval: MoveApproval
    ) -> None:
        """See that the group's agent approved that this vTPM goes to this target."""
        objection = self.objection(vtpm, source, target, approval)
        if objection is not None:
            code, reason = objection
            raise self._refusal(code, vtpm, reason)

    def objection(
        self, vtpm: UUID, source: Party, target: TransportKey, approval: MoveApproval
    ) -> tuple[ManagerCode, str] | None:
        """Return why this vTPM may not go to this target; None if the agent approved it."""
        try:
            approvals.check_move(source.policy.saa_modulus, approval)
        except approvals.BadSignature as error:
            return error.code, str(error)
        manager = self._committer.keys.manager
        own = source.key_digest(manager)
        if (approval.source, approval.source_key) != (manager, own):
            reason = "the approval is of another source"
        elif (approval.target, approval.target_key) != (target.manager, target.digest):
            reason = "the approval is of another target"
        elif not approval.covers(vtpm):
            reason = "the approval is of another vTPM"
        elif approval.sequence < source.group.config_list.sequence:
            reason = f"a list is in force that is newer than the approval ({approval.sequence})"
        else:
            return None
        return ManagerCode.AUTHFAIL, reason

    async def vouched(
        self, source: Party, aik_auth: Secret, package: V, *, client: Hashable | None = None
    ) -> V:
        """Have the group's identity key quote a package.

        Args:
            aik_auth: secret to use that key.
            client: in whose turn; None for the manager itself.

        Raises:
            CommandRefused: by the hardware TPM, or it quoted what does not verify.
            Withdrawn: the client gave its command up.
        """
        selection = PcrSelection.read(Reader(source.transport.release))
        with refused_by_hardware():
            quoted = await self._hardware.quote(
                source.policy.aik,
                aik_auth,
                external_data=package.external_data,
                selection=selection,
                source=client,
            )
        signed = package.quoted(composite_of(selection, quoted.pcr_values), quoted.signature)
        if not is_quoted(signed):
            # better now than at the target, when nobody serves the vTPM
            raise self._refusal(ManagerCode.FAIL, package.vtpm, "the quote does not verify")
        return signed

    # --- at the target -----------------------------------------------------------------------

    def is_addressed(self, target: Party, approval: MoveApproval) -> bool:
        """Say whether an approval lets something cross to this group here."""
        manager = self._committer.keys.manager
        named = approval.target, approval.target_key
        return named == (manager, target.key_digest(manager))

    def check_origin(self, target: Party, package: Vouched) -> None:
        """See that our agent approved the source, and that the source made the package."""
        vtpm, approval = package.vtpm, package.approval
        try:
            approvals.check_move(target.policy.saa_modulus, approval)
        except approvals.BadSignature as error:
            raise self._refusal(error.code, vtpm, str(error)) from error
        named = key_digest(approval.source, package.source_public_key, package.source_aik)
        if named != approval.source_key or not approval.covers(vtpm):
            raise self._refusal(ManagerCode.AUTHFAIL, vtpm, "the approval is of another move")
        if not is_quoted(package):
            raise self._refusal(
                ManagerCode.AUTHFAIL, vtpm, "the package is not of the source that was approved"
            )
