"""Pretraining of the miniature that ships with maskora, and its judgement."""
