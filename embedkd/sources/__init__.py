"""Shards and samples: finding, indexing, reading, decoding, packing. Torch-free."""
