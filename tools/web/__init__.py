"""A page that runs a trained network in the browser, for tools/export_web.py."""
