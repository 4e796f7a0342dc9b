"""The commands: the only code that unpacks the configuration and puts the rooms together."""
