"""The base models: one package per architecture; `registry` knows them all."""
