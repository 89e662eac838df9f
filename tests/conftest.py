"""What all tests share."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
# Files that take minutes come first, so that no process is left alone with one at the end.
LONG = ("scipion", "test_distribution", "test_kills", "test_train", "test_pretraining", "test_curriculum")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not set(LONG) & {item.path.stem, item.path.parent.name})


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository, where there is one."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the reference data in ../shared is not on this machine")
    return folder
