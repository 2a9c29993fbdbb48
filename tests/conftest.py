"""Runs and policies that several test files share."""

import shutil
from pathlib import Path

from utils.threads import spare_neighbours

spare_neighbours()  # before torch loads

import pytest
from helpers.run_contents import SMALL, done_here
from transformers.utils import logging as transformers_logging

from model.args import AZRArgs
from model.policy.tiny import build_tiny
from model.policy.warm_start import warm_start
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


def short_run(folder: Path, steps: int) -> Path:
    done_here(*SMALL, "--total-steps", str(steps), "--run-dir", str(folder))
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The folder of a run of 40 short steps. Not to be written into."""
    return short_run(tmp_path_factory.mktemp("runs") / "whole", 40)


@pytest.fixture(scope="session")
def half(tmp_path_factory) -> Path:
    """Of the same run, ended at step 20. Not to be written into."""
    return short_run(tmp_path_factory.mktemp("runs") / "half", 20)


@pytest.fixture
def copy(half, tmp_path) -> Path:
    """A copy of the half run, to be written into."""
    return Path(shutil.copytree(half, tmp_path / "run"))
