"""A cell that fails ends its notebook: what comes after would fail for the same reason."""

from collections.abc import Iterator

import pytest

failed: dict[object, str] = {}  # notebook -> its first cell that failed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if report.failed:
        failed.setdefault(item.parent, item.name)
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.parent in failed:
        pytest.skip(f"after {failed[item.parent]}")
