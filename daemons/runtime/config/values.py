# SPDX-License-Identifier: Apache-2.0
"""The small languages in values, on command lines and in files alike: names, PCR lists, locality
rules, modes, NV indices.

Names and meanings are those of Xen's vtpm-stubdom, xen-vtpm(7): `hwinitpcr`, `locality`, `startup`.
What its parser got wrong is right here: ranges work, also with the bounds swapped, and a label that
matches nothing is a refusal. Everything here raises ValueError with a reason for the operator.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

PCR_COUNT: Final = 24
MAX_LOCALITY_RULES: Final = 16
MAX_LOCALITY: Final = 255
"""The split driver carries the locality in one byte."""
NV_INDEX_FIRST: Final = 0x00000002
"""0 writes the DIR of TPM 1.1 and 1 is no index for use."""
NV_INDEX_LAST: Final = 0x0FFFFFFF
"""Above are the bits T, P, U and D of an NV index (TPM Main Part 2, 19.1), which are not an owner's
to use.
"""
DEFAULT_NV_INDEX: Final = 0x00015654

_GUEST_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", re.ASCII)
_PCR_ITEM: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_LOCALITIES: Final = re.compile(r"[0-9]{1,3}(?:,[0-9]{1,3})*", re.ASCII)
_MODE: Final = re.compile(r"[0-7]{3,4}", re.ASCII)
_MODE_LAST: Final = 0o777


class FreshnessMode(enum.Enum):
    """How the manager notices an older copy of its database."""

    NV = "nv"
    COUNTER = "counter"
    NONE = "none"


class ChipStartup(enum.Enum):
    """What the platform's firmware sends the hardware TPM after power-on (TPM Main Part 2, 4.5), or
    that it sends no TPM_Startup at all."""

    NONE = "none"
    CLEAR = "clear"
    STATE = "state"
    DEACTIVATED = "deactivated"


class StartupKind(enum.Enum):
    """Type of the TPM_Startup that a vTPM gets after power-on."""

    CLEAR = "clear"
    SAVE = "save"
    DEACTIVATED = "deactivated"


class EndorsementKey(enum.Enum):
    """Whether a new vTPM gets its endorsement key at once."""

    CREATE = "create"
    NONE = "none"


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


def is_guest_name(name: str) -> bool:
    """Whether a guest can have this name: 1-32 letters, digits, '_' and '-', beginning with a
    letter or digit."""
    return _GUEST_NAME.fullmatch(name) is not None


def check_guest_name(name: str) -> str:
    """Return the name, which becomes part of paths, units and user names.

    Raises:
        ValueError: it is none.
    """
    if not is_guest_name(name):
        raise ValueError(
            f"{name!r} is no guest name: 1-32 letters, digits, '_' and '-', "
            "beginning with a letter or digit"
        )
    return name


def parse_pcrs(lists: Iterable[str]) -> frozenset[int]:
    """Return the PCRs that a sequence of lists names.

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
    """Return the rules that texts of the form `<label>=<n>[,<n>...]` name, in their order.

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


def parse_mode(text: str) -> int:
    """Return the permissions that three or four octal digits name.

    Raises:
        ValueError: something else, or a bit above 0777.
    """
    if _MODE.fullmatch(text) is None or int(text, 8) > _MODE_LAST:
        raise ValueError(f"{text!r} is no file mode; an example is 0660")
    return int(text, 8)


def check_nv_index(index: int) -> int:
    """Return the NV index.

    Raises:
        ValueError: an owner cannot define it.
    """
    if not NV_INDEX_FIRST <= index <= NV_INDEX_LAST:
        raise ValueError(
            f"NV index {index:#x} is not within {NV_INDEX_FIRST:#x}-{NV_INDEX_LAST:#x}"
        )
    return index


def parse_nv_index(text: str) -> int:
    """Return an NV index given in decimal or, with 0x, in hexadecimal.

    Raises:
        ValueError: no number, or one that an owner cannot define.
    """
    try:
        index = int(text, 0)
    except ValueError:
        raise ValueError(f"NV index {text!r} is not a number") from None
    return check_nv_index(index)
