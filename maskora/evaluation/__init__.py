"""A result judged: numbers, curves over the frames, warnings, and a page to look at.

The measures are pure functions on arrays; nothing here knows a workspace or a configuration.
"""
