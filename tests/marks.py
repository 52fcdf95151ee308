"""Which cases of a test run with every change; the others wait for ``make test-long``."""

import pytest


def quick(cases, *chosen):
    """All ``cases``, those beyond ``chosen`` marked as long."""
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.long) for case in cases]
