"""The parts of the storage contract, a file for each subject; ``storage_contract`` puts them together.

Nothing here imports pytest or hypothesis until a test needs it, so the package
can be imported where they are not installed.
"""
