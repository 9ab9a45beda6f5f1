"""The command line: from a spec in YAML to a verified model, and what one does with that model afterwards.

Each verb is a module whose functions do the work and raise `TunesmithError`; `cli` only reads the arguments
and shows the outcome. Training runs in a process of its own, so this package needs no torch.
"""
