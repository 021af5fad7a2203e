# SPDX-License-Identifier: Apache-2.0
"""The tests of `test_counters` inside a transport session."""

from tests.unit.tpm12.test_counters import *  # noqa: F403 - the tests themselves
from tests.unit.tpm12.tunnel import MODES

MODE = MODES[0]
