"""The trainer: prepare, search, verify and publish, one stage after the other, in a pod or on one machine.

It is started as a process (`python -m tunesmith_trainer --spec FILE`), reports by events on standard
output, and keeps everything it must not lose in the job's store.
"""
