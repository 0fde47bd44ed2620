"""A model, and what can be asked of it: layers, task, variants, surgery, evaluation."""
