"""The weight of the entropy bonus, steered for each role so that neither stops exploring.

A constant coefficient is too weak for one phase of a run and too strong for another: too weak, and
the solver settles on answers it is sure of and wrong about, the proposer on a handful of problems;
too strong, and both drift to noise in which every response is malformed. So the coefficient follows
the entropy H that the role shows now (the idea of soft actor-critic's temperature, arXiv 1812.05905,
sec. 5, without its memory):

    coef * exp(gain * (1 - H / target))

Example: coef 0.03 and gain 4 give 0.03 at the target, 1.64 at H = 0 and 0.0005 at twice the target.
"""

from math import exp


def entropy_coefficient(entropy: float, target: float, coef: float, gain: float) -> float:
    """The weight of a role's entropy bonus in this step.

    entropy: its mean over the role's response tokens, in nats. target: in nats; at 0 the coefficient
    is `coef`, constant (the paper).
    """
    return coef * exp(gain * (1 - entropy / target)) if target > 0 else coef
