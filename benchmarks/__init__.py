"""Comparisons and measurements for developers: `python -m benchmarks.NAME`, in a checkout. They are not installed.

attention, loss, training and recomputing compare with the original's way; data with datatrove's defaults; install
times pip. Each prints tables, then one JSON line. What a user measures on their machine is `parakeet bench`.
"""
