"""Videos in and out: probing, exact frames, fitting to the model's grid and back, writing."""
