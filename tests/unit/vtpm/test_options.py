# SPDX-License-Identifier: Apache-2.0
"""PCR lists and locality masks, as Xen's manual means them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from daemons.vtpm.cli import main
from daemons.vtpm.options import allowed_localities, parse_locality_rules, parse_pcrs


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


REQUIRED = ["--state", "/s", "--socket", "/b.sock", "--manager", "/m.sock", "--uuid"]
UUID_TEXT = "8a3f6a52-5c1f-4f0e-9d7c-0a3b1c2d4e5f"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([*REQUIRED, UUID_TEXT, "--hwinitpcr", "0-24"], "PCR 24"),
        ([*REQUIRED, UUID_TEXT, "--locality", "x"], "<label>=<n>"),
        ([*REQUIRED, UUID_TEXT, "--startup", "state"], "--startup"),
        ([*REQUIRED, UUID_TEXT, "--maintcmds", "2"], "--maintcmds"),
        ([*REQUIRED, "no-uuid"], "--uuid"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error_that_names_the_option(
    arguments: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert complaint in result.output


OPTIONS = (
    *("--state", "--socket", "--manager", "--uuid", "--name", "--control", "--front-uid"),
    *("--startup", "--hwinitpcr", "--maintcmds", "--locality", "--ek", "--loglevel"),
)


def test_the_help_shows_every_option_and_an_example() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    for option in OPTIONS:
        assert option in output
    assert "Example:" in output
