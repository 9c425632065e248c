"""Files: ONNX read without onnx, plans with their sidecars, and external data."""
