# SPDX-License-Identifier: Apache-2.0
"""Names, PCR lists, locality masks, modes and NV indices, as Xen's manual means them."""

from __future__ import annotations

import pytest

from daemons.runtime.config.kinds import show_pcrs
from daemons.runtime.config.values import (
    allowed_localities,
    check_guest_name,
    parse_locality_rules,
    parse_mode,
    parse_nv_index,
    parse_pcrs,
)


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([], set()),
        (["all"], set(range(24))),
        (["none"], set()),
        (["7"], {7}),
        (["0-3"], {0, 1, 2, 3}),
        (["3-0"], {0, 1, 2, 3}),
        (["23-23"], {23}),
        (["1,4-5,9"], {1, 4, 5, 9}),
        (["1,2", "3"], {1, 2, 3}),
        (["1,2,none,3"], {3}),
        (["all", "none", "0"], {0}),
        ([" 1 , 2"], {1, 2}),
    ],
)
def test_pcr_lists(lists: list[str], expected: set[int]) -> None:
    assert parse_pcrs(lists) == expected


@pytest.mark.parametrize("text", ["24", "0-24", "24-0", "", "x", "-1", "1-", "1--2", "1,", "٣"])
def test_a_pcr_list_that_means_nothing_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"PCR|is not"):
        parse_pcrs([text])


def test_the_first_rule_that_matches_decides() -> None:
    rules = parse_locality_rules(["dom0=0,1,2", "*:vm_t=0", "*:secret:vm_t=4", "*=255"])
    assert allowed_localities(rules, "dom0") == frozenset({0, 1, 2})
    assert allowed_localities(rules, "user:secret:vm_t") == frozenset({0})
    assert allowed_localities(rules, ":vm_t") == frozenset({0})
    assert allowed_localities(rules, "") == frozenset({255})


def test_a_label_that_no_rule_matches_may_use_no_locality() -> None:
    rules = parse_locality_rules(["dom0=0"])
    assert allowed_localities(rules, "dom01") == frozenset()
    assert allowed_localities(rules, "xdom0") == frozenset()


def test_without_rules_every_locality_is_open() -> None:
    assert allowed_localities(parse_locality_rules([]), "anybody") is None


@pytest.mark.parametrize("rule", ["", "label", "label=", "=1", "l=256", "l=1,", "l=-1", "l=1,x"])
def test_a_rule_that_means_nothing_is_an_error(rule: str) -> None:
    with pytest.raises(ValueError, match=r"locality|is not"):
        parse_locality_rules([rule])


def test_at_most_sixteen_rules() -> None:
    rules = [f"l{n}=0" for n in range(17)]
    assert len(parse_locality_rules(rules[:16])) == 16
    with pytest.raises(ValueError, match="at most 16"):
        parse_locality_rules(rules)


@pytest.mark.parametrize("text", ["none", "0", "0-7", "0-2,4,10-11", "23", "0-23"])
def test_a_pcr_list_is_shown_as_it_is_written(text: str) -> None:
    assert show_pcrs(parse_pcrs([text])) == text


@pytest.mark.parametrize("name", ["g1", "G", "a-b_c", "0", "a" * 32])
def test_a_plain_name_is_a_guest_name(name: str) -> None:
    assert check_guest_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "_a", "a b", "a\n", "ä", "a" * 33])
def test_a_name_that_is_no_plain_word_is_no_guest_name(name: str) -> None:
    with pytest.raises(ValueError, match="no guest name"):
        check_guest_name(name)


def test_a_mode_is_three_or_four_octal_digits() -> None:
    assert parse_mode("0660") == parse_mode("660") == 0o660
    for text in ("", "66", "0o660", "1777", "888", "-660", "00660"):
        with pytest.raises(ValueError, match="no file mode"):
            parse_mode(text)


def test_an_nv_index_is_one_that_an_owner_may_define() -> None:
    assert parse_nv_index("0x15654") == parse_nv_index("87636") == 0x15654
    for text in ("0", "1", "0x10000001", "0xffffffff", "-5", "none"):
        with pytest.raises(ValueError, match="NV index"):
            parse_nv_index(text)
