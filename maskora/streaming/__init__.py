"""The frozen base in little memory: the plan, the stored weights, and the engine that moves them.

Knows bytes and blocks, and nothing of videos. `maskora.streaming.placement` needs no torch.
"""
