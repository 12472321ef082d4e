"""What can be said of teachers without loading them: one torch-free module a family.

Each has ``MODELS`` (models known by name), and as far as its family needs them ``recognise(path)``, which names the
model of a local folder, and ``has(model)``, which asks the family's library whether it has a model of that name.
"""
