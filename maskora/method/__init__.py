"""The method: conditioning on a masked source, and the training objective."""
