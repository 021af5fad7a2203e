# SPDX-License-Identifier: Apache-2.0
"""Capabilities (Part 3, chapter 7)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal
from tests.conformance.differences.declared import Declared, code
from tests.conformance.differences.rules import FLAGS_AREA, UNKNOWN_AREA

_SUB_CAP: Final = (
    "A subCap of the wrong length is BAD_MODE, whatever the area (Part 3, 7.1); libtpms takes the "
    "error of its parser, or does not look."
)

DECLARED: Final[tuple[Declared, ...]] = (
    Declared(
        "capability_of_select_sizes",
        Ordinal.GET_CAPABILITY,
        "resp of 00000018 00000004 01010003",
        "00",
        "01",
        "A version 1.1 selection has two bytes, so a size of three is not supported there "
        "(Part 2, 21.1, SELECT_SIZE); libtpms does not look at the version.",
    ),
    Declared(
        "capability_of_every_ordinal",
        Ordinal.GET_CAPABILITY,
        "resp of 00000001 00000004 00000097",
        "00",
        "01",
        "CAP_ORD tells which ordinals are answered (Part 2, 21.1); libtpms says that TPM_Init is "
        "one, and answers it with BAD_ORDINAL.",
    ),
    code(
        "setting_an_unknown_area",
        Ordinal.SET_CAPABILITY,
        "BAD_PARAMETER",
        "BAD_MODE",
        UNKNOWN_AREA,
        times=3,
    ),
    code(
        "setting_a_flag_to_what_is_no_boolean",
        Ordinal.SET_CAPABILITY,
        "BAD_PARAMETER",
        "SUCCESS",
        "A BOOL is 0 or 1, anything else is BAD_PARAMETER (Part 2, 2.2.2); libtpms stores it.",
    ),
    Declared(
        "setting_a_flag_to_what_is_no_boolean",
        Ordinal.GET_CAPABILITY,
        f"resp of {FLAGS_AREA}",
        "001f0001000000010000010100000000000000000000",
        "001f0201000000010000010100000000000000000000",
        "As above: libtpms reports the byte 2 that it stored as a flag.",
    ),
    code(
        "setting_new_daa_secrets_without_the_owner",
        Ordinal.SET_CAPABILITY,
        "AUTHFAIL",
        "SUCCESS",
        "Only the owner renews daaProof (Part 2, 7.5); libtpms lets everybody.",
        times=2,
    ),
    code(
        "setting_a_value_of_the_wrong_kind_while_disabled",
        Ordinal.SET_CAPABILITY,
        "BAD_PARAMETER",
        "DISABLED",
        "The value is judged before the TPM's state, for every field alike (Part 3, 7.2); libtpms "
        "has it so for the permanent flags only.",
    ),
    code(
        "capability_to_load_a_key_that_is_not_for_rsa",
        Ordinal.GET_CAPABILITY,
        "SUCCESS",
        "BAD_KEY_PROPERTY",
        "The answer to whether a key of a known algorithm could be loaded is FALSE (Part 2, 21.1).",
        times=2,
    ),
    *[
        code(case, Ordinal.GET_CAPABILITY, "BAD_MODE", theirs, _SUB_CAP, times=times)
        for case, theirs, times in (
            ("capability_to_load_a_key_that_does_not_parse", "BAD_PARAM_SIZE", 2),
            ("capability_to_load_a_key_with_a_tail", "SUCCESS", 1),
            ("capability_of_a_select_size_of_the_wrong_length", "BAD_PARAM_SIZE", 2),
            ("capability_of_a_select_size_of_the_wrong_length", "SUCCESS", 1),
            ("capability_of_attack_logic_with_a_sub_cap_of_the_wrong_length", "SUCCESS", 3),
        )
    ],
)
