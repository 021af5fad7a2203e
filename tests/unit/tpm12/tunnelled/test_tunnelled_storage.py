# SPDX-License-Identifier: Apache-2.0
"""The tests of `test_storage` inside a transport session."""

from tests.unit.tpm12.test_storage import *  # noqa: F403 - the tests themselves
from tests.unit.tpm12.tunnel import MODES

MODE = MODES[0]
