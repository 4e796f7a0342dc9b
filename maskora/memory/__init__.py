"""What a run takes of memory and how the base is placed in it; planning needs no torch."""
