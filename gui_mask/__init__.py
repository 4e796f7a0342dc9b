"""The window: clicks, edited frames and runs in a browser. The commands do the work."""
