"""The pages, in the order in which they are used. Widgets only: what they do is done elsewhere."""
