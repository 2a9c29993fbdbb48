"""The policy, the trainer and the commands."""

from utils.before_torch import settle

settle()  # before any room of this package loads torch
