"""The policy, the trainer and the commands."""

from utils.threads import spare_neighbours

spare_neighbours()  # before any room of this package loads torch
