"""With this folder on PYTHONPATH, every Python process begins on another system (other_system)."""

import other_system

other_system.begin()
