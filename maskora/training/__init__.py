"""Training a LoRA on encoded samples: objective, loop, checkpoints, report."""
