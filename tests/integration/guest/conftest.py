# SPDX-License-Identifier: Apache-2.0
"""What all tests of guests boot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.guest.image import Image, build_image


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """Kernel and first file system, made once."""
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as folder:
        yield build_image(Path(folder))
