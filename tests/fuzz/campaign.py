# SPDX-License-Identifier: Apache-2.0
"""One run: some thousand steps on one chip, of commands and of what happens to a chip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.framing import HEADER_BYTES, parse_header
from tests.fuzz.client import Client, inside_of_transport
from tests.fuzz.dice import Dice
from tests.fuzz.mutate import Mutator, Seeds
from tests.fuzz.openers import OIAP, osap, transport
from tests.fuzz.sign import Signer
from tests.fuzz.steps import Kind, Step, send, write_steps
from tests.fuzz.talks import OWNED, UNOWNED, WRAPPABLE
from tests.fuzz.target import Broken, Snapshot, Target
from tests.fuzz.trail import Trail
from tpmcore.errors import TpmError

RUN_COMMANDS: Final = 1000
_CHIPS: Final = ("furnished", "furnished", "furnished", "owned", "small", "new", "unstarted")
_FEW_SESSIONS: Final = 3
_FEW_TRANSPORTS: Final = 2
_TRANSPORT_PERCENT: Final = 15
_EXCLUSIVE_PERCENT: Final = 60
"""More often, since whatever is not in it ends an exclusive session."""
_RELEASE_PERCENT: Final = 10
_TALKS_PER_MILLE: Final = 6
_WRAPPED_TALK_PERCENT: Final = 25
_DISTURB_PERCENT: Final = 6
_DEAD_ENDS: Final = frozenset(
    {
        ReturnCode.DISABLED,
        ReturnCode.DEACTIVATED,
        ReturnCode.NOSRK,
        ReturnCode.FAILEDSELFTEST,
        ReturnCode.INVALID_POSTINIT,
    }
)
_DEAD_END_LIMIT: Final = 80
_WRAPPED_COMMAND_AT: Final = HEADER_BYTES + 4
_WRAPPED_RESPONSE_AT: Final = HEADER_BYTES + 8 + 4 + 4
_YEAR_S: Final = 365 * 86400


@dataclass(slots=True)
class Tally:
    """What a run did.

    Attributes:
        outcomes: number of commands by (ordinal, return code).
        wrapped: the same of commands that were executed inside of transport sessions.
        slowest_s: longest command without key generation.
    """

    commands: int = 0
    outcomes: Counter[tuple[int, int]] = field(default_factory=Counter)
    wrapped: Counter[tuple[int, int]] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def add(self, other: Tally) -> None:
        """Add the figures of another run."""
        self.commands += other.commands
        self.outcomes += other.outcomes
        self.wrapped += other.wrapped
        self.slowest_s = max(self.slowest_s, other.slowest_s)


class Failure(Exception):
    """A run that broke something.

    Attributes:
        steps: all steps of the run, the last of which broke it.
    """

    def __init__(self, reason: str, steps: list[Step]) -> None:
        super().__init__(reason)
        self.steps = steps


class Campaign:
    """Makes runs; what was learned in one is known in the next.

    Args:
        seed: of every decision.
        trail: is told each step before it is done.
    """

    def __init__(
        self,
        seed: str,
        chips: Mapping[str, Snapshot],
        seeds: Seeds,
        trail: Trail | None = None,
    ) -> None:
        self._trail = trail
        self._seed = seed
        self._chips = chips
        self._seeds = seeds
        self._signers: dict[str, Signer] = {}

    def run(self, number: int, commands: int = RUN_COMMANDS) -> Tally:
        """Do one run of so many commands, or fewer if the chip refuses most of them.

        Raises:
            Failure: something is broken.
        """
        dice = Dice(f"{self._seed}/{number}")
        snapshot = self._chips[dice.pick(_CHIPS)]
        signer = self._signers.setdefault(snapshot.name, Signer(dice, snapshot.secrets))
        signer.dice = dice
        run = _Run(
            dice,
            Target(snapshot, f"{number}"),
            Mutator(dice, self._seeds, snapshot.seeds),
            signer,
            self._trail,
        )
        if self._trail is not None:
            self._trail.begin()
        run.note(Step(Kind.CHIP, number, snapshot.name.encode()))
        try:
            while run.tally.commands < commands and run.dead_ends < _DEAD_END_LIMIT:
                run.turn()
        except Exception as error:
            raise Failure(f"{type(error).__name__}: {error}", run.steps) from error
        run.tally.slowest_s = run.target.slowest_s
        return run.tally


class _Run:
    def __init__(
        self, dice: Dice, target: Target, mutator: Mutator, signer: Signer, trail: Trail | None
    ) -> None:
        self.dice = dice
        self.target = target
        self.mutator = mutator
        self.signer = signer
        self.trail = trail
        self.steps: list[Step] = []
        self.tally = Tally()
        self.dead_ends = 0

    def turn(self) -> None:
        """Let something happen, or send a command."""
        choice, tpm = self.dice.below(1000), self.target.tpm
        if choice < 30:
            self._happen(choice)
        elif choice < 50:
            self._send(osap(tpm, self.dice))
        elif choice < 50 + _TALKS_PER_MILLE:
            self._talk()
        elif choice < 90 and len(tpm.stany.transports) < _FEW_TRANSPORTS:
            self._send(self.signer.sign(transport(tpm, self.dice), tpm))
        elif tpm.stany.transports and self.dice.chance(
            _EXCLUSIVE_PERCENT if tpm.stany.transport_exclusive else _TRANSPORT_PERCENT
        ):
            releases = self.dice.chance(_RELEASE_PERCENT)
            command = self.mutator.released() if releases else self.mutator.wrapped()
            self._send(self.signer.sign(command, tpm))
        else:
            if len(tpm.stany.sessions) < _FEW_SESSIONS:
                self._send(OIAP if self.dice.chance(50) else osap(tpm, self.dice))
            self._send(self._command())

    def _happen(self, choice: int) -> None:
        dice = self.dice
        if choice < 4:
            step = Step(Kind.POWER_CYCLE, dice.pick((0, 1, 1, 1, 2)))
        elif choice < 6:
            step = Step(Kind.POWER_ON, dice.pick((0, 1, 2)))
        elif choice < 13:
            step = Step(Kind.RESTART)
        elif choice < 20:
            step = Step(Kind.FAIL_PERSIST, dice.pick((0, 0, 1, 0x1F)))
        elif choice < 22:
            step = Step(Kind.ADVANCE, dice.pick((1, 60, _YEAR_S)))
        elif choice < 24:
            step = Step(Kind.PRESENCE, dice.below(2))
        elif choice < 25:
            step = Step(Kind.CAP_PCRS, 0, dice.bytes(20))
        elif choice < 26:
            step = Step(Kind.SET_PCR, dice.below(26), dice.bytes(dice.pick((20, 20, 0))))
        else:
            self._hash_sequence()
            return
        self._apply(step)

    def _hash_sequence(self) -> None:
        """A hash sequence, seldom one that is out of order."""
        whole = (Kind.HASH_START, Kind.HASH_DATA, Kind.HASH_DATA, Kind.HASH_END)
        skip = self.dice.below(16)
        for place, kind in enumerate(whole):
            if place != skip:
                data = self.dice.bytes(self.dice.below(100)) if kind is Kind.HASH_DATA else b""
                self._apply(Step(kind, 0, data))

    def _talk(self) -> None:
        """Have a conversation with the chip as a client has it, some of its commands changed.

        Raises:
            Broken: a client that was not disturbed gets a response that does not verify.
        """
        dice = self.dice
        client = Client(lambda: self.target.tpm, dice)
        is_owned = self.target.tpm.permanent.owner_auth is not None
        talk = dice.pick(OWNED if is_owned else UNOWNED)
        is_wrapped = talk in WRAPPABLE and dice.chance(_WRAPPED_TALK_PERCENT)
        conversation = inside_of_transport(client, talk) if is_wrapped else talk(client)
        response, disturbed = b"", False
        while True:
            try:
                command = conversation.send(response) if response else next(conversation)
            except (StopIteration, TpmError):
                return  # it is at an end, or wants what this chip has not
            except Exception as error:
                # A client does not expect what a command that is not its own comes to.
                if disturbed:
                    return
                raise Broken(f"a client's check fails: {error}") from error
            if dice.chance(_DISTURB_PERCENT):
                disturbed = True
                command = self.mutator.changed(command)
                if len(command) >= HEADER_BYTES and dice.chance(50):
                    command = self.signer.sign(command, self.target.tpm)
            response = self._send(command)

    def _command(self) -> bytes:
        tpm = self.target.tpm
        self.mutator.values.handles = (
            *tpm.stclear.keys,
            *tpm.stany.sessions,
            *tpm.stany.transports,
            *tpm.stany.daa_sessions,
            *tpm.permanent.nv,
        )
        command = self.mutator.command()
        if len(command) >= HEADER_BYTES and self.dice.chance(85):
            command = self.signer.sign(command, tpm)
        return command

    def _send(self, command: bytes) -> bytes:
        """Send a command, take note of what came of it and return that."""
        dice = self.dice
        locality = dice.below(6) if dice.chance(10) else 0
        response = self._apply(send(command, locality))
        self.tally.commands += 1
        code = parse_header(response).code
        if len(command) >= HEADER_BYTES:
            self.tally.outcomes[parse_header(command).code, code] += 1
        self.dead_ends += code in _DEAD_ENDS
        self.signer.learn(code)
        if code == ReturnCode.SUCCESS:
            self.mutator.remember(command, response)
            self._note_wrapped(command, response)
        elif code == ReturnCode.DEFEND_LOCK_RUNNING and dice.chance(70):
            self._apply(Step(Kind.ADVANCE, _YEAR_S))
        elif code in (ReturnCode.FAILEDSELFTEST, ReturnCode.INVALID_POSTINIT) and dice.chance(10):
            self._apply(Step(Kind.POWER_CYCLE, 1))
        return response

    def _note_wrapped(self, command: bytes, response: bytes) -> None:
        """Take note of what came of a command inside of ExecuteTransport."""
        if parse_header(command).code == Ordinal.EXECUTE_TRANSPORT:
            ordinal = parse_header(command[_WRAPPED_COMMAND_AT:]).code
            self.tally.wrapped[ordinal, parse_header(response[_WRAPPED_RESPONSE_AT:]).code] += 1

    def _apply(self, step: Step) -> bytes:
        self.note(step)
        return self.target.apply(step)

    def note(self, step: Step) -> None:
        """Put a step down, before what it does may hang or kill the process."""
        self.steps.append(step)
        if self.trail is not None:
            self.trail.note(step)


def replay(steps: Iterable[Step], chips: Mapping[str, Snapshot]) -> None:
    """Do the steps of a finding again.

    Raises:
        Broken: it is not repaired.
    """
    first, *rest = steps
    target = Target(chips[first.data.decode()], f"{first.number}")
    for step in rest:
        target.apply(step)


def write_finding(folder: Path, name: str, failure: Failure) -> Path:
    """Write the steps of a failure and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.txt"
    path.write_text(f"# {str(failure).splitlines()[0]}\n{write_steps(failure.steps)}")
    return path
