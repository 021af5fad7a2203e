# SPDX-License-Identifier: Apache-2.0
"""What integration tests share: the installed suite, and who comes last."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.log_search import SEARCH
from tests.integration.machine import ROOT

LAST = "test_whole_log"


def pytest_configure() -> None:
    # A shell's background job and nohup ignore these, and what is started would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def installed() -> Iterator[Path]:
    """A folder in which `make install` has put everything; not to be changed."""
    folder = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    folder.chmod(0o755)
    subprocess.run(["make", "-s", "-C", ROOT, "install", f"DESTDIR={folder}"], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def module_dir() -> Iterator[Path]:
    """As `run_dir`, for all tests of a module."""
    path = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    yield path
    SEARCH.collect(path)
    shutil.rmtree(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the logs of all tests runs after them."""
    items.sort(key=lambda item: item.path.stem == LAST)
