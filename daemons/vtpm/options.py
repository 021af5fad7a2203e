# SPDX-License-Identifier: Apache-2.0
"""What the command line says, and the two small languages in it: PCR lists and locality masks.

Names and meanings are those of Xen's vtpm-stubdom, xen-vtpm(7): `--hwinitpcr`, `--locality`,
`--startup`, `--maintcmds`. What its parser got wrong is right here: ranges work, also with the
bounds swapped, and a label that matches nothing is a refusal.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from daemons.runtime.log import Level

PCR_COUNT: Final = 24
MAX_LOCALITY_RULES: Final = 16
MAX_LOCALITY: Final = 255
"""The split driver carries the locality in one byte."""

_PCR_ITEM: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_LOCALITIES: Final = re.compile(r"[0-9]{1,3}(?:,[0-9]{1,3})*", re.ASCII)


class StartupKind(enum.Enum):
    """Type of the TPM_Startup that the daemon sends after power-on (`--startup`)."""

    CLEAR = "clear"
    SAVE = "save"
    DEACTIVATED = "deactivated"


@dataclass(frozen=True, slots=True)
class LocalityRule:
    """Which localities clients with a label may use.

    Attributes:
        label: exact label, or a suffix behind `*`.
        localities: numbers, 0 to 255.
    """

    label: str
    localities: frozenset[int]

    def matches(self, label: str) -> bool:
        """Whether the rule is about a client with this label."""
        if self.label.startswith("*"):
            return label.endswith(self.label[1:])
        return label == self.label


@dataclass(frozen=True, slots=True)
class Config:
    """What one vTPM daemon runs with.

    Attributes:
        state: folder of the slots.
        socket: where fronts connect (split driver).
        control: where `vtpmctl` connects.
        manager: the manager's socket.
        uuid: identity towards the manager and the fronts.
        name: of the guest, for the log and the process list.
        front_uid: the only uid that may connect.
        startup: after power-on.
        hw_init_pcrs: PCRs that start with the hardware TPM's value.
        maintenance_commands: whether ordinals 44-48 answer.
        locality_rules: empty means that every locality is open to every client.
        make_ek: whether a new TPM gets its endorsement key at once.
        level: of the log.
    """

    state: Path
    socket: Path
    control: Path
    manager: Path
    uuid: UUID
    name: str
    front_uid: int
    startup: StartupKind = StartupKind.CLEAR
    hw_init_pcrs: frozenset[int] = frozenset()
    maintenance_commands: bool = False
    locality_rules: tuple[LocalityRule, ...] = ()
    make_ek: bool = True
    level: Level = Level.INFO


def parse_pcrs(lists: Iterable[str]) -> frozenset[int]:
    """Return the PCRs that a sequence of `--hwinitpcr` options names.

    Each is a comma list of `all`, `none`, `N` and `X-Y` (bounds in either order); `none` takes back
    what was given before it.

    Raises:
        ValueError: another word, or a PCR above 23.
    """
    pcrs: set[int] = set()
    for item in (item.strip() for text in lists for item in text.split(",")):
        if item == "all":
            pcrs.update(range(PCR_COUNT))
        elif item == "none":
            pcrs.clear()
        elif match := _PCR_ITEM.fullmatch(item):
            bounds = [int(bound) for bound in match.groups() if bound is not None]
            if max(bounds) >= PCR_COUNT:
                raise ValueError(f"PCR {max(bounds)}: the last one is {PCR_COUNT - 1}")
            pcrs.update(range(min(bounds), max(bounds) + 1))
        else:
            raise ValueError(f"{item!r} is not all, none, N or X-Y")
    return frozenset(pcrs)


def parse_locality_rules(rules: Sequence[str]) -> tuple[LocalityRule, ...]:
    """Return the rules that `--locality <label>=<n>[,<n>...]` options name, in their order.

    Raises:
        ValueError: not of that form, a locality above 255, more than 16 rules.
    """
    if len(rules) > MAX_LOCALITY_RULES:
        raise ValueError(f"{len(rules)} rules, at most {MAX_LOCALITY_RULES}")
    return tuple(_parse_locality_rule(rule) for rule in rules)


def _parse_locality_rule(rule: str) -> LocalityRule:
    # Labels may hold an equals sign, numbers may not: the last one separates.
    label, separator, numbers = rule.rpartition("=")
    if not separator or not label or _LOCALITIES.fullmatch(numbers) is None:
        raise ValueError(f"{rule!r} is not <label>=<n>[,<n>...]")
    localities = frozenset(int(number) for number in numbers.split(","))
    if max(localities) > MAX_LOCALITY:
        raise ValueError(f"locality {max(localities)}: the last one is {MAX_LOCALITY}")
    return LocalityRule(label, localities)


def allowed_localities(rules: Sequence[LocalityRule], label: str) -> frozenset[int] | None:
    """Return the localities that a client may use; None if there are no rules, so any.

    The first rule that matches decides; a label that none matches may use no locality.
    """
    if not rules:
        return None
    for rule in rules:
        if rule.matches(label):
            return rule.localities
    return frozenset()
