"""`--proposer` by name, as `model/args.py` offers them."""

from model.proposers.controls import Decoy, Frozen, Nobody, Replayed, Untrained, Yoked
from model.proposers.environment import Adaptive, LogUniform, Uniform, Window
from model.proposers.protocol import Proposer, SelfPlay

PROPOSERS: dict[str, type[Proposer]] = {
    "self": SelfPlay,
    "untrained": Untrained,
    "frozen": Frozen,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "window": Window,
    "adaptive": Adaptive,
    "yoked": Yoked,
    "replayed": Replayed,
    "decoy": Decoy,
    "none": Nobody,
}
