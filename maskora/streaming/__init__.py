"""The frozen base in little memory: the stored weights, and the engine that moves them.

Knows bytes and blocks, and nothing of videos. `placement`, `header` and `out_of_memory` start
without torch.
"""
