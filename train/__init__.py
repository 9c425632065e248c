"""Training by the paper's recipe: model, reference engine, checkpoints, data, recipe, loop. Needs torch."""
