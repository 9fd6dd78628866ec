"""The evaluation: every policy in the same worlds, against each other and against what nobody can beat."""
