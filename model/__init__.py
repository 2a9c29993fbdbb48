"""The policy, the trainer and the commands."""

from utils.allocator import expand_segments
from utils.threads import spare_neighbours

expand_segments()  # both before any room of this package loads torch
spare_neighbours()
