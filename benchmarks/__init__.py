"""What maskora costs on a machine, measured by commands that anyone can run."""
