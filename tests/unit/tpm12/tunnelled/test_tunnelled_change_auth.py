# SPDX-License-Identifier: Apache-2.0
"""The tests of `test_change_auth` inside a transport session."""

from tests.unit.tpm12.test_change_auth import *  # noqa: F403 - the tests themselves
from tests.unit.tpm12.tunnel import MODES

MODE = MODES[2]
