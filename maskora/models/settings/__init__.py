"""What the configuration of each part must say, and how it is read."""
