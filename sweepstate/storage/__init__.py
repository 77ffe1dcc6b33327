"""Storages: where sweeps live."""
