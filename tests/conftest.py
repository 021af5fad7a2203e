# SPDX-License-Identifier: Apache-2.0
"""What every test gets: short socket folders and one hypothesis profile."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.integration.log_search import SEARCH

# No deadline: two test workers share two cores with the daemons they start, so single examples may
# be slow. A fixed seed, so that a failure on one machine is a failure on every machine; looking for
# new inputs is the fuzzer's work, not this run's.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


# A configuration that others may write to is refused; many a user's umask would let their group.
os.umask(0o022)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--logs",
        metavar="DIR",
        help="leave what the daemons log in DIR, and look through what other runs have left there",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    if folder := session.config.getoption("logs"):
        SEARCH.take(Path(folder))


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = session.config.getoption("logs")
    # The process that only starts workers has nothing.
    if folder and SEARCH.logs:
        SEARCH.leave(Path(folder))


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A fresh folder with a short path, since the path of a Unix socket ends at 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    yield path
    SEARCH.collect(path)
    shutil.rmtree(path)
