"""Pretrained weights and well-known data sets: fetched once, checked, put where a spec can name them.

Only this part of the command line may use torch: to read what torchvision offers and write safetensors.
"""
