"""A fuzz test of the library in onnxruntime: see __main__."""
