"""The names of what stands in the folder of a run, for those who write it and those who read it."""

CONFIG = "config.json"
LOGS = ("metrics", "rollouts", "problems", "evaluations")
METRICS, ROLLOUTS, PROBLEMS, EVALUATIONS = (f"{name}.jsonl" for name in LOGS)
PLOTS, CHECKPOINTS = "plots", "checkpoints"
LATEST, BEST = "latest", "best"  # among the checkpoints, text files that name two of them
REPORT, COMPARISON = "report.html", "comparison.html"  # of this run; of this run and others
SUPERSEDED = "superseded-"  # and a number: what a resumed run has taken out of its way
