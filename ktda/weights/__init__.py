"""Pretrained weights: read, fetched, and put into encoders and vision transformers."""
