"""The third stage: how good the exported model is on the test split, and whether that is good enough.

Everything is measured on ``model.onnx`` by ONNX Runtime, as it will be served, in batches whose size does not
depend on the number of images. ``verify.verify_model`` is the whole stage; ``gates`` decides.
"""
