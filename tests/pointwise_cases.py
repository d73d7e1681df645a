"""The table of the pointwise losses: inputs, options, independent oracles. test_pointwise.py has the laws for it."""

from __future__ import annotations

import pointwise_cases_policies
import pointwise_cases_supervised

ALL = [*pointwise_cases_supervised.CASES, *pointwise_cases_policies.CASES]
ONE_OF_EACH = list({case.loss: case for case in reversed(ALL)}.values())  # the first case of every loss
WITH_TERMS = [case for case in ALL if case.has_terms]
