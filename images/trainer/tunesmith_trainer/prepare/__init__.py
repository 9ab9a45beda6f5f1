"""Data preparation: from a source of labelled images to a checked, split and decoded dataset.

`prepare.prepare_dataset` is the stage; `sources.list_source` looks at a source without reading its images.
"""
