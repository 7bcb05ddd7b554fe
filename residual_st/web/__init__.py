"""A page that records speech and shows its translation: served with a model, or as static files that run it in the browser."""
