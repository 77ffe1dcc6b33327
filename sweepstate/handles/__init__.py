"""What the handles of both shells have in common: all they show, and every command and report, written once.

``Sweep`` and ``Run`` answer at once, ``AsyncSweep`` and ``AsyncRun`` answer to an
``await``; so what a command returns is a type parameter here, and only the one
method that commits differs.
"""
