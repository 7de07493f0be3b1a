"""Checkpoints that the frameworks themselves wrote give the interests that the frameworks themselves computed.

`make parity` makes the cases; tests/parity/README.md says how.
"""
import sys

import pytest

from harness import RECALLCTL, ROOT

sys.path.append(str(ROOT / "tests/parity"))

import check  # noqa: E402

GOLDEN = ROOT / "tests/golden/parity"


@pytest.mark.parametrize("name", check.CASES)
def test_a_checkpoint_as_written_gives_what_its_framework_computed(name):
    case, largest = check.check(RECALLCTL, GOLDEN / name)
    assert largest is None or largest <= case["bound"]


def test_every_case_that_is_kept_is_one_that_is_checked():
    assert check.names(GOLDEN) == set(check.CASES)
