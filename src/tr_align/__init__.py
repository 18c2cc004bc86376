"""Trust-region alignment (TR-DPO, TR-IPO, TR-KTO; arXiv 2404.09656) as a reproducible pipeline."""

__version__ = "0.1.0"
