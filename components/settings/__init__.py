"""Stack settings: the model, loading and errors."""
