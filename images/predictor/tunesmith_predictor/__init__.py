"""Serves a model package: predictions, explanations and what there is to watch, through KServe's server."""
