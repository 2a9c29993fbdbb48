"""Runs and policies that several test files share."""

import pytest
from transformers.utils import logging as transformers_logging

from model.args import AZRArgs
from model.policy import build_tiny
from model.warm_start import warm_start
from utils.string_formatting import PromptRenderer

transformers_logging.disable_progress_bar()


@pytest.fixture(scope="session")
def warm_tiny():
    """(policy, renderer, args): `tiny` of primes up to 13 after the default warm start, the same for
    every test. Not to be trained in place."""
    args = AZRArgs(max_prime=13)
    policy = build_tiny(args.max_prime, args.seed)
    renderer = PromptRenderer.for_policy(policy, args)
    warm_start(policy, renderer, args)
    return policy, renderer, args
