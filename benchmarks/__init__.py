"""Side-by-side timings of ``cnn`` and PyTorch: ``python -m benchmarks``."""
