# SPDX-License-Identifier: Apache-2.0
"""The tests of `test_session_management` inside a transport session."""

from tests.unit.tpm12.test_session_management import *  # noqa: F403 - the tests themselves
from tests.unit.tpm12.tunnel import MODES

MODE = MODES[1]
