"""KTDA: knowledge transfer and domain adaptation for fine-grained remote-sensing segmentation.

Zhang et al., ICME 2025, doi 10.1109/ICME59968.2025.11209838, arXiv 2412.06664.
"""

__version__ = "0.1.0"
