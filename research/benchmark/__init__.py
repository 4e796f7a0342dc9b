"""Methods compared: presets run over a folder of cases, and one table and page of it all."""
