"""Experiments on maskora that are not installed with it."""
