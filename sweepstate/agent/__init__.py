"""Agents: what executes runs that it is ordered to."""
