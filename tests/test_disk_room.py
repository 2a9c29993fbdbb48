"""The free disk that a checkpoint needs. Oracles: the real file system, and numbers by hand."""

import shutil

import pytest

from model.run.checkpoints import SLACK, CheckpointError, Checkpoints


def test_a_checkpoint_larger_than_the_disk_is_refused_and_a_small_one_is_not(tmp_path):
    """There is room for something, as this test runs; twice what is free does not fit."""
    free = shutil.disk_usage(tmp_path).free
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.require_room(1)
    with pytest.raises(CheckpointError, match="MiB of disk"):
        checkpoints.require_room(2 * free)


@pytest.mark.parametrize(("size", "fits"), [(0, True), (10**8, True), (10**8 + 1, False)])
def test_what_is_needed_is_the_size_and_a_little(tmp_path, monkeypatch, size, fits):
    # A mock: no file system of a known size can be had everywhere.
    usage = shutil.disk_usage(tmp_path)._replace(free=10**8 + SLACK)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    if fits:
        Checkpoints(tmp_path, keep=1).require_room(size)
    else:
        with pytest.raises(CheckpointError, match=f"{(size + SLACK) / 2**20:,.0f} MiB of disk"):
            Checkpoints(tmp_path, keep=1).require_room(size)
