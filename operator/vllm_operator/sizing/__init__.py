"""Sizing: how many GPUs a model needs, how to split it over them, what would not work and why.

Pure arithmetic on a model's architecture numbers; nothing here touches a cluster, a network or a GPU.
"""
