"""The two resources of the API group ``tunesmith.dev``: what may be written, and what is answered.

``TrainingJob`` and ``ModelDeployment`` are pydantic models from which the CRDs are generated; their rules are
CEL, so that ``kubectl apply`` and ``tunesmith validate`` refuse the same things with the same sentences.
Nothing in here knows of clusters, torch or ray.
"""

__version__ = "0.1.0"
"""Of the whole distribution; an image holds no metadata of it, as it holds only some of its packages."""
