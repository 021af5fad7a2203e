# SPDX-License-Identifier: Apache-2.0
"""What integration tests share: the installed suite, who comes first and who last.

Two pytest workers run them (`make integration`). Nothing of one test is in another's way: each has
folders of its own, a tcsd its own port and store, a machine its own namespaces. The tests of a file
stay on one worker, since some share what is made once for a module (`--dist loadfile`).
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.integration.log_search import SEARCH
from tests.integration.machine import ROOT

LAST = "test_whole_log"
_SHARED = pytest.StashKey[Path]()
_SHARED_NAME = "shared_folder"


class WorkerNode(Protocol):
    """A worker as xdist shows it before its start.

    Attributes:
        config: of the process that starts it.
        workerinput: what it gets to know.
    """

    config: pytest.Config
    workerinput: dict[str, Any]


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job and nohup ignore these, and what is started would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    told = getattr(config, "workerinput", {})
    if _SHARED_NAME in told:
        config.stash[_SHARED] = Path(told[_SHARED_NAME])
    else:
        config.stash[_SHARED] = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
        config.stash[_SHARED].chmod(0o755)
        config.add_cleanup(lambda: shutil.rmtree(config.stash[_SHARED]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerNode) -> None:
    node.workerinput[_SHARED_NAME] = str(node.config.stash[_SHARED])


@pytest.fixture(scope="session")
def installed(pytestconfig: pytest.Config) -> Path:
    """A folder in which `make install` has put everything; all workers use it as it is."""
    shared = pytestconfig.stash[_SHARED]
    folder, complete = shared / "installed", shared / "complete"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            # There is one if another worker's attempt failed: this one says why, too.
            folder.mkdir(exist_ok=True)
            subprocess.run(["make", "-s", "-C", ROOT, "install", f"DESTDIR={folder}"], check=True)
            complete.touch()
    return folder


@pytest.fixture(scope="module")
def module_dir() -> Iterator[Path]:
    """As `run_dir`, for all tests of a module."""
    path = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    yield path
    SEARCH.collect(path)
    shutil.rmtree(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have a long test.

    At the end of the run no worker is then left with minutes of work while the other has none. What
    looks at the logs of all tests runs after them.
    """
    long = {item.path for item in items if item.get_closest_marker("timeout") is not None}
    items.sort(key=lambda item: (item.path.stem == LAST, item.path not in long))
