"""The trainer as a process that is killed, stopped, starved of disk and left by its store."""
