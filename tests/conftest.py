# SPDX-License-Identifier: Apache-2.0
"""What every test gets: short socket folders and one hypothesis profile."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest

from tests.integration.log_search import SEARCH

# No deadline: two test workers share two cores with the daemons they start, so single examples may
# be slow. A fixed seed, so that a failure on one machine is a failure on every machine; looking for
# new inputs is the fuzzer's work, not this run's.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

_HANDED_OVER = "logs and secrets"
_SHOWN = pytest.StashKey[list[str]]()

# A configuration that others may write to is refused; many a user's umask would let their group.
os.umask(0o022)


class EndedWorker(Protocol):
    """A worker as xdist shows it at its end.

    Attributes:
        workeroutput: what it has left; missing if it crashed, which fails the run by itself.
    """

    workeroutput: dict[str, Any]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: EndedWorker) -> None:
    if _HANDED_OVER in getattr(node, "workeroutput", {}):
        SEARCH.take(node.workeroutput[_HANDED_OVER])


@pytest.hookimpl(trylast=True)  # after the fixtures that a test left behind
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look through the logs of all workers, none of which knows the secrets of the others; without
    workers `test_whole_log` has done so."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_HANDED_OVER] = SEARCH.handed_over()
    elif session.config.getoption("dist", "no") != "no":
        session.config.stash[_SHOWN] = list(SEARCH.found())
        if session.config.stash[_SHOWN]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if shown := terminalreporter.config.stash.get(_SHOWN, []):
        terminalreporter.section("secrets in the logs of this run", red=True, bold=True)
        for line in shown:
            terminalreporter.line(line)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A fresh folder with a short path, since the path of a Unix socket ends at 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    yield path
    SEARCH.collect(path)
    shutil.rmtree(path)
