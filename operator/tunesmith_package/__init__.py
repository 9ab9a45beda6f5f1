"""The model package and what reads and writes it: stores, image decoding, manifest, inference.

Trainer and predictor share this package, so that an image is decoded and scaled by one piece of code
and a package is written and checked by one piece of code. It imports neither torch nor ray; of
Tunesmith's own packages it knows only ``tunesmith_api.reasons``.
"""
