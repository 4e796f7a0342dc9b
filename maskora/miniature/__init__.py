"""The miniature: a rendered world whose truth is known, and a small base of the real classes."""
