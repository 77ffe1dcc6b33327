"""The pure core: what may happen, and what follows. It performs no I/O and knows nobody else.

- ``lifecycle``: the tables; ``step``, ``check`` and ``allowed`` for people who keep sweeps in models of their own.
- ``status``, ``limits``, ``state``, ``events``, ``errors``: the values.
- ``decide``: a command, report or question in, events and the next snapshots out.
- ``evolve``: from events to snapshots; ``replay``.
- ``plain``: the plain-data form of all of it.
"""
